//! `sysupgrade-rs guard`: it keeps a system or goes back, and feeds the watchdog meanwhile.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sysupgrade_rs::slots::Slot;

use crate::Result;
use crate::router::{STRICT, Site};

/// A check that works on the old system, and not on the new one.
const BROKEN: &str = "test $1 = record || { echo no answer from 192.0.2.1 >&2; exit 1; }";

const WHY: &str =
    "health check 20-dns failed: no answer from 192.0.2.1 (it worked before the upgrade)";

/// A guard at work.
struct Guard(Child);

impl Guard {
    fn start(site: &Site) -> Result<Self> {
        let mut command = site.command(&["--json", "guard"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(command.spawn()?))
    }

    fn end(self) -> Result<Value> {
        let output = self.0.wait_with_output()?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Waits until it is so; the test runner knows how long it may take.
fn until(so: impl Fn() -> Result<bool>) -> Result {
    while !so()? {
        thread::yield_now();
    }
    Ok(())
}

fn next_boot(site: &Site) -> Result<Value> {
    Ok(site.status()?["next_boot"].take())
}

#[test]
fn a_system_on_which_all_works_is_confirmed_and_the_watchdog_is_stopped() -> Result {
    let site = Site::new(STRICT)?;
    site.check("20-dns", "exit 0")?;
    site.upgraded(&[])?;
    assert_eq!(site.answer(&["guard"], 0)?["changed"], true);
    let status = site.status()?;
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["last"]["what"], "confirmed", "{status}");
    assert_eq!(site.result()?["what"], "confirmed");
    assert!(site.watchdog()?.ends_with("V"), "{}", site.watchdog()?);
    Ok(())
}

#[test]
fn what_worked_before_and_does_not_any_more_sends_the_machine_back_and_is_named() -> Result {
    let site = Site::new(STRICT)?;
    site.check("10-net", "exit 0")?;
    site.check("20-dns", BROKEN)?;
    site.upgraded(&[])?;
    let output = site.run(&["guard"])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    assert!(
        said.contains(&format!("this system is not kept: {WHY}")),
        "{said}"
    );
    // Nobody feeds it, and nobody has stopped it.
    assert!(!site.watchdog()?.contains('V'), "{}", site.watchdog()?);
    assert_eq!(site.result()?["message"], WHY);

    assert_eq!(site.boot()?, Slot::First);
    let status = site.status()?;
    assert_eq!(status["standing"], "fell-back", "{status}");
    assert_eq!(status["why"], WHY, "{status}");
    assert_eq!(status["other"]["state"], format!("failed: {WHY}"));
    assert_eq!(status["last"]["what"], "rolled-back", "{status}");
    assert_eq!(status["last"]["message"], WHY, "{status}");
    let result = site.result()?;
    assert_eq!(result["state"], "finished", "{result}");
    assert_eq!(result["exit"], 1, "{result}");
    assert_eq!(result["what"], "rolled-back", "{result}");
    assert_eq!(result["message"], WHY, "{result}");
    Ok(())
}

#[test]
fn what_never_worked_cannot_fail_a_trial() -> Result {
    let site = Site::new(STRICT)?;
    site.check("20-dns", "echo no answer >&2; exit 1")?;
    site.upgraded(&[])?;
    site.check("30-new", "exit 1")?;
    let output = site.run(&["guard"])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    let told = "health check 20-dns: no answer (nor did it work before the upgrade)";
    assert!(said.contains(told), "{said}");
    assert_eq!(site.status()?["standing"], "good");
    Ok(())
}

#[test]
fn a_check_that_refuses_the_system_is_not_asked_again() -> Result {
    let site = Site::new("within = \"10h\"")?;
    site.check("90-login", "test $1 = record || exit 100")?;
    site.upgraded(&["--confirm-within", "10h"])?;
    site.answer(&["guard"], 0)?;
    let why = "health check 90-login refuses this system: exit status 100";
    assert_eq!(site.status()?["last"]["message"], why);
    assert_eq!(next_boot(&site)?, "a");
    Ok(())
}

#[test]
fn a_check_that_works_late_is_asked_until_it_does() -> Result {
    let site = Site::new("within = \"10h\"\nretry = \"1s\"")?;
    let late = "test $1 = record || { echo >>\"$0.log\"; test $(wc -l <\"$0.log\") -ge 3; }";
    site.check("20-dns", late)?;
    site.upgraded(&[])?;
    assert_eq!(site.answer(&["guard"], 0)?["changed"], true);
    assert_eq!(
        fs::read_to_string(site.path("/data/health.d/20-dns.log"))?,
        "\n\n\n"
    );
    Ok(())
}

#[test]
fn a_check_that_hangs_keeps_nobody_from_feeding_the_watchdog_nor_from_going_back() -> Result {
    let patient = STRICT.replace("within = \"1s\"", "within = \"3s\"\ntimeout = \"30s\"");
    let site = Site::new(&patient)?;
    site.check("20-dns", "test $1 = record || sleep 10000")?;
    site.upgraded(&[])?;
    let armed = site.watchdog()?.len();
    site.answer(&["guard"], 0)?;
    let status = site.status()?;
    let why =
        "health check 20-dns failed: no answer before time was up (it worked before the upgrade)";
    assert_eq!(status["last"]["message"], why, "{status}");
    let fed = site.watchdog()?.len() - armed;
    assert!(fed >= 3, "fed {fed} times in 3 s");
    Ok(())
}

#[test]
fn without_checks_somebody_has_to_confirm_in_time() -> Result {
    let site = Site::new("confirm = true")?;
    site.upgraded(&["--confirm-within", "1s"])?;
    site.answer(&["guard"], 0)?;
    assert_eq!(
        site.status()?["last"]["message"],
        "not confirmed within 1 s"
    );
    assert_eq!(site.boot()?, Slot::First);
    assert_eq!(site.status()?["why"], "not confirmed within 1 s");
    Ok(())
}

#[test]
fn somebody_else_may_have_to_confirm_though_all_works() -> Result {
    let site = Site::new(&format!("confirm = false\n{STRICT}"))?;
    site.check("20-dns", "exit 0")?;
    site.upgraded(&["--confirm-within", "10h"])?;
    let armed = site.watchdog()?;
    let guard = Guard::start(&site)?;
    until(|| Ok(site.watchdog()?.len() >= armed.len() + 4))?; // well past `within`
    assert_eq!(site.status()?["standing"], "on-trial");
    site.answer(&["confirm"], 0)?;
    assert_eq!(guard.end()?["changed"], false);
    assert!(site.watchdog()?.ends_with("V"), "{}", site.watchdog()?);
    Ok(())
}

#[test]
fn a_guard_that_is_killed_leaves_the_watchdog_ticking() -> Result {
    let site = Site::new(STRICT)?;
    site.upgraded(&["--confirm-within", "10h"])?;
    let armed = site.watchdog()?;
    let mut guard = Guard::start(&site)?;
    until(|| Ok(site.watchdog()?.len() > armed.len()))?;
    let pid = Pid::from_raw(i32::try_from(guard.0.id())?).ok_or("a number")?;
    kill_process(pid, Signal::TERM)?;
    assert!(!guard.0.wait()?.success());
    assert!(!site.watchdog()?.contains('V'), "{}", site.watchdog()?);
    assert_eq!(site.status()?["standing"], "on-trial");
    Ok(())
}

#[test]
fn the_watchdog_is_armed_by_the_first_boot_of_a_trial_and_by_nothing_else() -> Result {
    let site = Site::new(STRICT)?;
    site.answer(&["guard"], 0)?;
    site.install(2, &[])?;
    assert_eq!(
        site.watchdog()?,
        "",
        "a good slot has nothing to do with it"
    );
    assert_eq!(site.boot()?, Slot::Second);
    let armed = site.watchdog()?;
    assert!(!armed.is_empty() && !armed.contains('V'), "{armed}");
    // Each boot of the trial is one.
    assert_eq!(site.boot()?, Slot::Second);
    let again = site.watchdog()?;
    assert!(again.len() > armed.len() && !again.contains('V'), "{again}");
    site.answer(&["confirm"], 0)?;
    assert_eq!(site.boot()?, Slot::Second);
    assert_eq!(site.watchdog()?, again);
    Ok(())
}

#[test]
fn a_trial_goes_on_where_the_watchdog_cannot_be_had_and_that_is_said() -> Result {
    let site = Site::new("[watchdog]\ndevice = \"/dev/none\"")?;
    site.check("20-dns", "exit 0")?;
    site.upgraded(&[])?;
    for command in ["first-boot", "guard"] {
        let output = site.run(&[command])?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stderr)?;
        let told = "the trial goes on without a watchdog: cannot open ";
        assert!(said.contains(told), "{command}: {said}");
    }
    assert_eq!(site.status()?["standing"], "good");
    Ok(())
}

#[test]
fn what_cannot_be_judged_is_not_confirmed() -> Result {
    let site = Site::new("")?;
    site.check("20-dns", "exit 0")?;
    site.upgraded(&["--confirm-within", "2s"])?;
    fs::write(site.path("/data/sysupgrade-rs/health.json"), "{")?;
    site.answer(&["guard"], 0)?;
    let last = site.status()?["last"]["message"].take();
    let last = last.as_str().unwrap_or_default();
    assert!(last.starts_with("not confirmed within 2 s; "), "{last}");
    assert!(last.contains("health.json is damaged"), "{last}");
    Ok(())
}
