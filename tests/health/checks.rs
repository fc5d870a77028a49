//! Checks as processes, and `sysupgrade-rs health`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sysupgrade_rs::health::{Before, Checks, Finding, MAX_SEEN, Now, Verdict, Was};

use crate::Result;
use crate::router::{CHECKS, STRICT, Site, put_check};

/// Checks that get so long.
fn checks(dir: &Path, timeout: Duration) -> Checks {
    Checks {
        dir: dir.to_owned(),
        timeout,
        slot: "b".to_owned(),
    }
}

/// Far more than a check needs that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn worked(name: &str, seen: &str) -> Before {
    Before {
        worked: [(name.to_owned(), seen.to_owned())].into(),
        ..Before::default()
    }
}

/// What comes of a check that worked before.
fn ask(script: &str, timeout: Duration) -> Result<Finding> {
    let dir = tempfile::tempdir()?;
    put_check(dir.path(), "check", script)?;
    let before = worked("check", "seen before");
    Ok(checks(dir.path(), timeout).ask("check", &before, &mut || true))
}

fn why(script: &str) -> Result<String> {
    let finding = ask(script, PATIENCE)?;
    assert_eq!(finding.verdict, Verdict::Failed, "{script}: {finding}");
    Ok(finding.why.unwrap_or_default())
}

#[test]
fn checks_are_those_that_run_parts_would_take_in_the_order_of_their_names() -> Result {
    let dir = tempfile::tempdir()?;
    for name in [
        "20-b",
        "10-a",
        "A_1",
        "x",
        "README.md",
        "30-c~",
        ".hidden",
        "a b",
    ] {
        put_check(dir.path(), name, "exit 0")?;
    }
    let names = checks(dir.path(), PATIENCE).names()?;
    assert_eq!(names, ["10-a", "20-b", "A_1", "x"]);
    let missing = dir.path().join("missing");
    assert!(checks(&missing, PATIENCE).names()?.is_empty());
    let error = checks(&dir.path().join("x.sh"), PATIENCE).names();
    assert!(error.is_err(), "a file is no directory: {error:?}");
    Ok(())
}

#[test]
fn a_check_is_told_by_argv_environment_and_standard_input_and_nothing_else() -> Result {
    let dir = tempfile::tempdir()?;
    let script = "echo \"$# $1 $SYSUPGRADE_SLOT $SYSUPGRADE_RECORDED $PWD\" >&2; cat >&2; exit 1";
    put_check(dir.path(), "a", script)?;
    put_check(
        dir.path(),
        "b",
        "env | cut -d= -f1 | sort | tr '\\n' ' ' >&2; exit 1",
    )?;
    let checks = checks(dir.path(), PATIENCE);
    let before = worked("a", "x");
    let told = checks.ask("a", &before, &mut || true);
    assert_eq!(told.why.as_deref(), Some("1 check b yes /"));
    let told = checks.ask("a", &Before::default(), &mut || true);
    assert_eq!(told.why.as_deref(), Some("1 check b no /"));
    let names = checks.ask("b", &Before::default(), &mut || true).why;
    let names = names.unwrap_or_default();
    // The shell adds some of its own.
    let ours = names
        .split(' ')
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours, ["PATH", "SYSUPGRADE_RECORDED", "SYSUPGRADE_SLOT"]);

    put_check(dir.path(), "a", "test \"$(cat)\" = 'seen before'")?;
    let seen = checks.ask("a", &worked("a", "seen before"), &mut || true);
    assert_eq!((seen.now, seen.why), (Now::Works, None));
    Ok(())
}

#[test]
fn the_reason_is_the_first_line_of_standard_error_or_how_the_check_ended() -> Result {
    for (script, expected) in [
        ("echo no answer >&2; echo more >&2; exit 1", "no answer"),
        ("echo >&2; echo '  late ' >&2; exit 3", "late"),
        ("exit 7", "exit status 7"),
        ("kill -KILL $$", "killed by signal 9"),
        ("kill -SEGV $$; sleep 60", "killed by signal 11"),
        ("printf 'a\\033[31mb' >&2; exit 1", "a\\u{1b}[31mb"),
        ("printf 'not \\377 text' >&2; exit 1", "not \u{fffd} text"),
    ] {
        assert_eq!(why(script)?, expected, "{script}");
    }
    let long = why("while :; do echo -n abcdefgh; done 2>/dev/null | head -c 100000 >&2; exit 1")?;
    assert!(long.chars().count() <= 201, "{} characters", long.len());
    Ok(())
}

#[test]
fn exit_status_100_refuses_a_system_whatever_was_before() -> Result {
    let finding = ask("echo no root >&2; exit 100", PATIENCE)?;
    assert_eq!(finding.verdict, Verdict::NeverKept);
    let told = "health check check refuses this system: no root";
    assert_eq!(finding.to_string(), told);
    Ok(())
}

#[test]
fn a_check_that_hangs_is_killed_with_all_that_it_started() -> Result {
    let dir = tempfile::tempdir()?;
    let pids = dir.path().join("pids");
    let script = format!(
        "trap '' TERM INT HUP; sleep 1000 & echo $! >>{0}; echo $$ >>{0}; wait; sleep 1000",
        pids.display()
    );
    put_check(dir.path(), "check", &script)?;
    let mut calls = 0;
    let checks = checks(dir.path(), Duration::from_secs(2));
    let finding = checks.ask("check", &worked("check", ""), &mut || {
        calls += 1;
        true
    });
    assert_eq!(finding.why.as_deref(), Some("no answer within 2 s"));
    assert_eq!(finding.verdict, Verdict::Failed);
    assert!(calls >= 5, "called back {calls} times only in 2 s");
    for pid in fs::read_to_string(pids)?.lines() {
        let began = Instant::now();
        loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                break;
            }
            // It is dead when it is its turn on a processor.
            assert!(
                began.elapsed() < PATIENCE,
                "process {pid} is still there: {stat}"
            );
            thread::yield_now();
        }
    }
    Ok(())
}

#[test]
fn a_check_that_leaves_something_behind_that_holds_its_pipes_has_ended_all_the_same() -> Result {
    let finding = ask("sleep 1000 & exit 0", PATIENCE)?;
    assert_eq!(finding.verdict, Verdict::Good);
    Ok(())
}

#[test]
fn a_check_can_be_called_off() -> Result {
    let dir = tempfile::tempdir()?;
    put_check(dir.path(), "a", "sleep 1000")?;
    put_check(dir.path(), "b", "exit 0")?;
    let mut calls = 0;
    let before = checks(dir.path(), PATIENCE).record(&mut || {
        calls += 1;
        calls < 3
    })?;
    let why = "no answer before time was up";
    assert_eq!(before.broken["a"], why);
    assert!(before.worked.is_empty(), "{before:?}");
    Ok(())
}

#[test]
fn a_check_that_floods_is_not_waited_for_and_only_the_begin_of_it_is_kept() -> Result {
    let dir = tempfile::tempdir()?;
    let flood = "head -c 3000000 /dev/zero | tr '\\0' x | fold -w 99; head -c 300000 /dev/zero >&2";
    put_check(dir.path(), "flood", flood)?;
    let before = checks(dir.path(), PATIENCE).record(&mut || true)?;
    let seen = &before.worked["flood"];
    assert!(
        (MAX_SEEN - 100..=MAX_SEEN).contains(&seen.len()),
        "{}",
        seen.len()
    );
    assert!(seen.ends_with('\n') && seen.lines().all(|line| line.len() == 99));

    put_check(dir.path(), "flood", "while :; do echo flood; done")?;
    let before = checks(dir.path(), Duration::from_secs(1)).record(&mut || true)?;
    assert_eq!(before.broken["flood"], "no answer within 1 s");
    Ok(())
}

#[test]
fn a_check_need_not_read_what_was_seen() -> Result {
    let dir = tempfile::tempdir()?;
    put_check(dir.path(), "deaf", "exec <&-; exit 0")?;
    let before = worked("deaf", &"x".repeat(10 * MAX_SEEN));
    let finding = checks(dir.path(), PATIENCE).ask("deaf", &before, &mut || true);
    assert_eq!(finding.verdict, Verdict::Good, "{finding}");
    Ok(())
}

#[test]
fn what_cannot_be_run_does_not_work() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path();
    fs::write(path.join("10-no-program"), "exit 0")?;
    symlink("nowhere", path.join("20-dangling"))?;
    fs::create_dir(path.join("30-directory"))?;
    let checks = checks(path, PATIENCE);
    let before = checks.record(&mut || true)?;
    let names: Vec<_> = before.broken.keys().collect();
    assert_eq!(names, ["10-no-program", "20-dangling", "30-directory"]);
    for (name, why) in &before.broken {
        assert!(why.starts_with("cannot be run: "), "{name}: {why}");
        let finding = checks.ask(name, &worked(name, ""), &mut || true);
        assert_eq!(finding.verdict, Verdict::Failed, "{finding}");
    }
    Ok(())
}

#[test]
fn an_install_records_what_works_and_the_new_system_is_judged_by_it() -> Result {
    let site = Site::new("")?;
    let net = "test $1 = record && echo 192.0.2.1 || grep -q 192.0.2.1";
    site.check("10-net", net)?;
    site.check("20-dns", "echo no answer >&2; exit 1")?;
    let answer = site.answer(&["health"], 1)?;
    assert_eq!(answer["on_trial"], false);
    assert_eq!(answer["checks"][0]["verdict"], "good", "{answer}");
    assert_eq!(answer["checks"][1]["why"], "no answer", "{answer}");

    site.install(2, &[])?;
    let before = site.recorded()?;
    assert_eq!(before.of("10-net"), (Was::Working, "192.0.2.1\n"));
    assert_eq!(before.of("20-dns"), (Was::Broken, ""));
    site.boot()?;
    let answer = site.answer(&["health"], 0)?;
    assert_eq!(answer["on_trial"], true);
    assert_eq!(site.status()?["standing"], "on-trial");
    assert_eq!(answer["checks"][0]["before"], "working", "{answer}");
    assert_eq!(answer["checks"][1]["verdict"], "excused", "{answer}");

    site.check("10-net", "echo the line is down >&2; exit 1")?;
    site.check("30-new", "exit 1")?;
    let output = site.run(&["health"])?;
    assert_eq!(output.status.code(), Some(1));
    let lines = [
        "BAD  health check 10-net failed: the line is down (it worked before the upgrade)",
        "-    health check 20-dns: no answer (nor did it work before the upgrade)",
        "-    health check 30-new: exit status 1 (not known whether it worked before the upgrade)\n",
    ];
    assert_eq!(String::from_utf8(output.stdout)?, lines.join("\n"));
    Ok(())
}

#[test]
fn a_router_without_checks_says_so() -> Result {
    let site = Site::new("")?;
    let answer = site.answer(&["health"], 0)?;
    assert_eq!(answer["checks"], serde_json::json!([]));
    site.install(2, &[])?;
    assert!(!site.path("/data/sysupgrade-rs/health.json").exists());
    Ok(())
}

#[test]
fn the_doctor_looks_at_checks_and_watchdog_and_does_not_wake_it() -> Result {
    let site = Site::new(STRICT)?;
    let check = |name: &str, ok: bool| -> Result<String> {
        let answer = site.answer(&["doctor"], if ok { 0 } else { 30 })?;
        let checks = answer["checks"].as_array().ok_or("no checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.ok_or("no such check")?;
        assert_eq!(check["ok"], ok, "{check}");
        assert_eq!(check["hint"].is_string(), !ok, "{check}");
        Ok(check["detail"].as_str().ok_or("no detail")?.to_owned())
    };
    let none = format!("none in {CHECKS}: somebody has to confirm");
    assert_eq!(check("health checks", true)?, none);
    site.check("10-line", "exit 1")?;
    site.check("20-dns", "exit 0")?;
    let names = format!("2 in {CHECKS}: 10-line, 20-dns");
    assert_eq!(check("health checks", true)?, names);
    fs::write(site.path(&format!("{CHECKS}/30-mine")), "#!/bin/sh\n")?;
    let idle = format!("cannot be run, in {CHECKS}: 30-mine");
    assert_eq!(check("health checks", false)?, idle);
    fs::remove_file(site.path(&format!("{CHECKS}/30-mine")))?;

    assert_eq!(check("watchdog", true)?, "/data/watchdog, 5 s");
    site.show("/sys/class/watchdog/watchdog0/nowayout", "0\n")?;
    assert_eq!(check("watchdog", true)?, "/data/watchdog, 5 s");
    site.show("/sys/class/watchdog/watchdog0/nowayout", "1\n")?;
    let never = check("watchdog", true)?;
    assert!(never.contains("never stops it (nowayout)"), "{never}");
    assert_eq!(site.watchdog()?, "", "it was not opened");
    fs::remove_file(site.path("/data/watchdog"))?;
    assert_eq!(check("watchdog", false)?, "there is no /data/watchdog");
    Ok(())
}
