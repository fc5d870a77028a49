//! The `config` commands as their callers see them.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// What must be in no output.
const PLANTED: &str = "pLanted-s3cret";

/// A system in a directory, with what it was shipped with in its `/rom`.
struct System(tempfile::TempDir);

impl System {
    fn new() -> Result<Self> {
        let system = Self(tempfile::tempdir()?);
        for dir in ["etc", "rom/etc"] {
            fs::create_dir_all(system.path(dir))?;
        }
        Ok(system)
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result {
        let path = self.path(path);
        fs::create_dir_all(path.parent().ok_or("a file in a tree")?)?;
        fs::write(&path, content)?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(0o644),
        )?)
    }

    fn text(&self, path: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(path))?)
    }

    fn mode(&self, path: &str, mode: u32) -> Result {
        Ok(fs::set_permissions(
            self.path(path),
            fs::Permissions::from_mode(mode),
        )?)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = program();
        command.arg("--root").arg(self.0.path()).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command(words).output()?)
    }

    /// Stores a report of an upgrade.
    fn report(&self, number: u32, entries: &Value, more: &Value) -> Result {
        let mut report = json!({
            "format": 1, "engine": 1, "from": "1.0", "to": "2.0", "summary": {}, "entries": entries,
            "notices": [],
        });
        for (key, value) in more.as_object().ok_or("an object")? {
            report[key] = value.clone();
        }
        let path = format!("etc/sysupgrade/reports/{number:05}.json");
        self.put(path, report.to_string())
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sysupgrade-rs"));
    // What a terminal would say must not matter to a pipe.
    command
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn text(output: &Output) -> &str {
    assert_eq!(std::str::from_utf8(&output.stderr), Ok(""), "{output:?}");
    std::str::from_utf8(&output.stdout).expect("what is printed is text")
}

#[track_caller]
fn check(output: &Output, code: i32, expected: &str) {
    assert_eq!(text(output), expected);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

#[track_caller]
fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// All that a run has printed.
fn printed(output: &Output) -> String {
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

const NETWORK: &str = "config interface 'lan'\n\toption proto 'static'\n";

#[test]
fn a_diff_shows_what_was_added_changed_and_deleted() -> Result {
    let system = System::new()?;
    check(&system.run(&["config", "diff"])?, 0, "");
    system.put("rom/etc/banner", "welcome\n")?;
    system.put("rom/etc/config/network", NETWORK)?;
    system.put("etc/config/network", NETWORK.replace("static", "dhcp"))?;
    system.put("etc/rc.local", "exit 0\n")?;
    let expected = "\
--- default/etc/banner
+++ /dev/null
@@ -1 +0,0 @@
-welcome
--- default/etc/config/network
+++ yours/etc/config/network
@@ -1,2 +1,2 @@
 config interface 'lan'
-\toption proto 'static'
+\toption proto 'dhcp'
--- /dev/null
+++ yours/etc/rc.local
@@ -0,0 +1 @@
+exit 0
";
    check(&system.run(&["config", "diff"])?, 0, expected);
    let banner = "--- default/etc/banner\n+++ /dev/null\n@@ -1 +0,0 @@\n-welcome\n";
    for path in ["/etc/banner", "etc/banner", "etc//banner/"] {
        check(&system.run(&["config", "diff", path])?, 0, banner);
    }
    let answer = document(&system.run(&["--json", "config", "diff", "/etc/rc.local"])?);
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(answer["exit"], 0, "{answer}");
    let expected = json!([{
        "path": "etc/rc.local", "what": "added", "mode": null, "withheld": null,
        "diff": "--- /dev/null\n+++ yours/etc/rc.local\n@@ -0,0 +1 @@\n+exit 0\n",
    }]);
    assert_eq!(answer["changes"], expected);
    Ok(())
}

#[test]
fn a_diff_needs_defaults_and_a_path_that_is_one() -> Result {
    let system = System::new()?;
    let output = system.run(&["--json", "config", "diff", "../x"])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    fs::remove_dir_all(system.path("rom"))?;
    let output = system.run(&["--json", "config", "diff"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(document(&output)["ok"], false);
    system.put("etc/sysupgrade-rs/board.toml", "no board")?;
    let output = system.run(&["config", "diff"])?;
    assert_eq!(output.status.code(), Some(30), "{output:?}");
    Ok(())
}

#[test]
fn private_files_are_named_and_never_shown() -> Result {
    let system = System::new()?;
    for (path, mode) in [
        ("etc/shadow", 0o600),
        ("etc/shadow-", 0o644),
        ("etc/dropbear/key", 0o644),
        ("etc/my.key", 0o600),
    ] {
        system.put(path, PLANTED)?;
        system.mode(path, mode)?;
    }
    let wifi = format!("config wifi-iface 'w'\n\toption ssid 'home'\n\toption key '{PLANTED}'\n");
    system.put("etc/config/wireless", &wifi)?;
    system.put("etc/config/wireless.bak", &wifi)?;
    system.put("etc/config/broken", wifi.replace("'home'", "'home"))?;
    let output = system.run(&["config", "diff"])?;
    let shown = text(&output);
    for line in [
        "/etc/shadow: added, not shown: it holds password hashes\n",
        "/etc/shadow-: added, not shown: it holds password hashes\n",
        "/etc/dropbear/key: added, not shown: the policy says that it is yours alone\n",
        "/etc/my.key: added, not shown: only its owner may read it\n",
        "/etc/config/broken: added, not shown: it cannot be read as UCI, and may hold secrets\n",
        "+++ yours/etc/config/wireless\n",
        "+\toption ssid 'home'\n+\toption key '(secret)'\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    for words in [
        &["config", "diff"][..],
        &["--json", "config", "diff"],
        &["-vv", "config", "diff", "/etc"],
    ] {
        let output = system.run(words)?;
        assert!(!printed(&output).contains(PLANTED), "{words:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn hostile_names_and_texts_do_not_reach_the_terminal() -> Result {
    let system = System::new()?;
    let name = OsStr::from_bytes(b"etc/a\x1b[2J\nb\xff");
    system.put(name, "text \u{1b}[31m and \u{202e}more\n")?;
    symlink("\u{1b}[2J", system.path("etc/link"))?;
    let key = OsStr::from_bytes(b"etc/k\x1b[2J");
    system.put(key, "x")?;
    fs::set_permissions(system.path(key), fs::Permissions::from_mode(0o600))?;
    let attic = Path::new("etc/sysupgrade/attic/00001");
    system.put(attic.join(name), "x")?;
    let path = "etc/a\u{1b}[2J\nb\\xff";
    let conflict = json!({"locus": "x\u{1b}[2J", "kind": "both-changed", "user": "\u{1b}[2J",
                          "resolved": "user"});
    let entries = json!([{"path": path, "action": "conflict-user", "conflicts": [conflict]}]);
    system.report(1, &entries, &json!({"to": "\u{1b}[2J", "attic": [path]}))?;
    for words in [
        &["config", "diff"][..],
        &["config", "report"],
        &["config", "attic", "list"],
        &["config", "keep", "/etc/\u{1b}[2J"],
        &["config", "pin", "/etc/\u{1b}[2J"],
        &["config", "attic", "get", "/etc/\u{1b}[2J"],
        &["config", "diff", "../\u{1b}[2J"],
        &["config", "test", "/\u{1b}[2J"],
        &[
            "config",
            "merge",
            "--base",
            "/\u{1b}[2J",
            "--user",
            "/",
            "--new",
            "/",
            "--plan",
        ],
    ] {
        let output = system.run(words)?;
        let said = printed(&output);
        assert!(!said.is_empty(), "{words:?}");
        assert!(
            !said.contains(['\u{1b}', '\u{202e}']),
            "{words:?}: {output:?}"
        );
        assert!(!said.contains("\nb"), "{words:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn there_are_no_colours_in_a_pipe() -> Result {
    let system = System::new()?;
    system.put("etc/rc.local", "exit 0\n")?;
    let conflict = json!({"locus": null, "kind": "both-changed", "resolved": "user"});
    let entries = json!([{"path": "etc/x", "action": "conflict-user", "conflicts": [conflict]}]);
    system.report(1, &entries, &json!({}))?;
    for words in [&["config", "diff"][..], &["config", "report"]] {
        let output = system.run(words)?;
        assert!(!text(&output).contains('\u{1b}'), "{output:?}");
    }
    Ok(())
}

#[test]
fn keep_adds_a_line_once_and_leaves_the_rest_alone() -> Result {
    let system = System::new()?;
    system.put("etc/sysupgrade.conf", "# mine\n/etc/old")?;
    system.mode("etc/sysupgrade.conf", 0o640)?;
    system.put("etc/my notes", "x")?;
    let words = ["config", "keep", "/etc/my notes", "etc/old/", "/etc/none"];
    let expected = "\
/etc/my notes: added to /etc/sysupgrade.conf
/etc/old: is in /etc/sysupgrade.conf already
  nothing on this system has that name
/etc/none: added to /etc/sysupgrade.conf
  nothing on this system has that name
";
    check(&system.run(&words)?, 0, expected);
    let list = "# mine\n/etc/old\n/etc/my?notes\n/etc/none\n";
    assert_eq!(system.text("etc/sysupgrade.conf")?, list);
    let again = document(&system.run(&["--json", "config", "keep", "/etc/my notes"])?);
    let expected = json!([{"path": "etc/my notes", "line": "/etc/my?notes", "added": false,
                           "hint": null}]);
    assert_eq!(again["paths"], expected, "{again}");
    assert_eq!(system.text("etc/sysupgrade.conf")?, list);
    let mode = fs::metadata(system.path("etc/sysupgrade.conf"))?
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    let kept = system.run(&["-l"])?;
    assert!(printed(&kept).starts_with("/etc/my notes\n"), "{kept:?}");
    Ok(())
}

#[test]
fn pin_adds_a_line_once_and_says_when_it_has_no_effect_yet() -> Result {
    let system = System::new()?;
    system.put("etc/sysupgrade.conf", "/etc/kept\n")?;
    system.put("etc/kept", "x")?;
    let words = ["config", "pin", "/etc/kept", "/etc/loose"];
    let expected = "\
/etc/kept: added to /etc/sysupgrade.policy
/etc/loose: added to /etc/sysupgrade.policy
  carried only if a keep list names it: sysupgrade-rs config keep PATH
";
    check(&system.run(&words)?, 0, expected);
    let policy = "/etc/kept keep\n/etc/loose keep\n";
    assert_eq!(system.text("etc/sysupgrade.policy")?, policy);
    let again = "/etc/kept: is in /etc/sysupgrade.policy already\n";
    check(&system.run(&["config", "pin", "/etc/kept"])?, 0, again);
    assert_eq!(system.text("etc/sysupgrade.policy")?, policy);
    Ok(())
}

#[test]
fn what_cannot_be_kept_or_pinned_is_a_usage_error_and_changes_nothing() -> Result {
    let system = System::new()?;
    for command in ["keep", "pin"] {
        for path in ["../etc", "/", "/etc/sysupgrade/reports"] {
            let output = system.run(&["--json", "config", command, "/etc/x", path])?;
            assert_eq!(
                output.status.code(),
                Some(2),
                "{command} {path}: {output:?}"
            );
            assert_eq!(document(&output)["exit"], 2);
        }
    }
    assert_eq!(fs::read_dir(system.path("etc"))?.count(), 0);
    symlink("/nowhere", system.path("etc/sysupgrade.conf"))?;
    let output = system.run(&["config", "keep", "/etc/x"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(printed(&output).contains("`etc/sysupgrade.conf` is no regular file"));
    Ok(())
}

#[test]
fn the_attic_gives_the_newest_version_back() -> Result {
    let system = System::new()?;
    check(&system.run(&["config", "attic", "list"])?, 0, "");
    for (number, content) in [(2, "older"), (11, "newest\0\n")] {
        system.put(format!("etc/sysupgrade/attic/{number:05}/etc/x"), content)?;
    }
    symlink("/a", system.path("etc/sysupgrade/attic/00002/etc/link"))?;
    let list = "/etc/link: a link, of report 2\n/etc/x: 8 bytes, of report 11\n\
                /etc/x: 5 bytes, of report 2\n";
    check(&system.run(&["config", "attic", "list"])?, 0, list);
    let answer = document(&system.run(&["--json", "config", "attic", "list"])?);
    let newest = json!({"path": "etc/x", "report": 11, "size": 8});
    assert_eq!(answer["attic"][1], newest, "{answer}");

    let output = system.run(&["-q", "config", "attic", "get", "/etc/x"])?;
    check(&output, 0, "newest\0\n");
    let file = system.path("out");
    let name = file.to_str().ok_or("a name")?;
    check(
        &system.run(&["config", "attic", "get", "etc/x", name])?,
        0,
        "8 bytes\n",
    );
    assert_eq!(fs::read(&file)?, b"newest\0\n");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o7777, 0o600);
    for (path, said) in [
        ("/etc/y", "no attic has `/etc/y`"),
        ("/etc/link", "a link to `/a`"),
    ] {
        let output = system.run(&["config", "attic", "get", path])?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(printed(&output).contains(said), "{output:?}");
    }
    Ok(())
}

/// A report with something in each group.
fn eventful(system: &System) -> Result {
    let entry = |path: &str, action: &str| json!({"path": path, "action": action});
    let entries = json!([
        {"path": "etc/config/dhcp", "action": "conflict-user", "merger": "uci", "conflicts": [
            {"locus": "lan.leasetime", "kind": "both-changed", "default": "12h", "user": "24h",
             "new": "6h", "resolved": "user"},
            {"locus": "lan.dns", "kind": "both-changed", "user": ["1.1.1.1", "9.9.9.9"],
             "new": "8.8.8.8", "resolved": "new"},
            {"locus": "lan.key", "kind": "both-changed", "default": {"secret": true},
             "user": {"secret": true}, "new": {"secret": true}, "resolved": "user"},
            {"locus": "lan.start", "kind": "both-changed", "default": "1", "user": "2", "new": "3",
             "resolved": "new", "decided": true},
        ]},
        {"path": "etc/config/system", "action": "conflict-new", "merger": "uci", "conflicts": [
            {"locus": "@system[0].hostname", "kind": "both-changed", "default": "a", "user": "b",
             "new": "c", "resolved": "new", "decided": true},
        ]},
        entry("etc/banner", "updated"),
        entry("etc/fresh", "new"),
        entry("etc/gone", "removed"),
        entry("etc/hosts", "merged"),
        entry("etc/mine", "user-added"),
        entry("etc/motd", "kept"),
        entry("etc/notes", "out-of-scope"),
        {"path": "etc/profile", "action": "conflict-user", "merger": "text", "conflicts": [
            {"locus": null, "kind": "both-changed", "resolved": "user"},
        ]},
        entry("etc/rc.local", "kept"),
        entry("etc/same", "same"),
        {"path": "etc/tool", "action": "updated", "set_id_cleared": true},
    ]);
    let more = json!({
        "services": [{"name": "dnsmasq", "action": "disabled"}],
        "notices": [{"kind": "not-kept", "path": "root/scratch"},
                    {"kind": "delete-change", "path": "etc/config/x", "locus": "a.b"}],
        "attic": ["etc/config/system"],
        "steps": [{"id": "wifi-path", "component": "wireless", "direction": "forward",
                   "touched": ["etc/config/wireless#radio0.path"]},
                  {"id": "idle", "component": "base", "direction": "backward", "touched": []}],
        "renumbered": [{"name": "dnsmasq", "image": 453, "result": 100, "files": ["etc/dns"]}],
    });
    for (version, line) in [("default", "two"), ("user", "TWO"), ("new", "2")] {
        let kept = format!("etc/sysupgrade/conflicts/00003/etc/profile.{version}");
        system.put(&kept, format!("one\n{line}\n"))?;
        system.mode(&kept, 0o600)?;
    }
    system.put("etc/profile", "one\nTWO\n")?;
    system.report(3, &entries, &more)
}

#[test]
fn a_report_has_its_groups_with_all_values_and_real_diffs() -> Result {
    let system = System::new()?;
    eventful(&system)?;
    let expected = "\
report 3: from version 1.0 to version 2.0

wants your review
  /etc/config/dhcp#lan.leasetime: you and the image changed it; yours stayed
      default  12h
      yours    24h
      new      6h
  /etc/config/dhcp#lan.dns: you and the image changed it; the new one was taken
      default  (none)
      yours    1.1.1.1, 9.9.9.9
      new      8.8.8.8
  /etc/config/dhcp#lan.key: you and the image changed it; yours stayed
      default  (secret)
      yours    (secret)
      new      (secret)
  /etc/profile: you and the image changed it; yours stayed
      --- default
      +++ yours
      @@ -1,2 +1,2 @@
       one
      -two
      +TWO
      --- default
      +++ new
      @@ -1,2 +1,2 @@
       one
      -two
      +2

merged
  /etc/config/system
      as you decided: @system[0].hostname: new
  /etc/hosts

followed the image
  /etc/banner: changed
  /etc/fresh: new
  /etc/gone: removed
  /etc/tool: changed

yours, as they were
  1 added by you
  2 changed by you

left behind
  /etc/notes
  /root/scratch

set aside
  /etc/config/system
  to get one back: sysupgrade-rs config attic get PATH

services
  dnsmasq: does not start at boot, as with you

steps
  wifi-path (wireless)
      /etc/config/wireless#radio0.path
  idle (base), undone: nothing to do

worth knowing
  etc/config/x#a.b: deleted by the user, changed by the new image
  account dnsmasq: number 100, in the image 453
      /etc/dns: belongs to number 453
  /etc/tool: lost its set-user-id and set-group-id bits
";
    for words in [&["config", "report"][..], &["config", "report", "3"]] {
        check(&system.run(words)?, 0, expected);
    }
    let verbose = system.run(&["-v", "config", "report"])?;
    let yours = "yours, as they were\n  /etc/mine: added by you\n  /etc/motd: changed by you\n  \
                 /etc/rc.local: changed by you\n";
    assert!(text(&verbose).contains(yours), "{}", text(&verbose));
    Ok(())
}

#[test]
fn a_report_is_a_document_and_a_missing_one_an_error() -> Result {
    let system = System::new()?;
    let output = system.run(&["--json", "config", "report"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    eventful(&system)?;
    let answer = document(&system.run(&["--json", "config", "report"])?);
    for (key, value) in [
        ("ok", json!(true)),
        ("exit", json!(0)),
        ("number", json!(3)),
        ("format", json!(1)),
        ("to", json!("2.0")),
    ] {
        assert_eq!(answer[key], value, "{key}: {answer}");
    }
    let conflict = &answer["entries"][0]["conflicts"][2];
    assert_eq!(conflict["user"], json!({"secret": true}), "{answer}");
    let output = system.run(&["config", "report", "4"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = printed(&output);
    assert!(said.contains("no readable report 4; there are 3"), "{said}");
    Ok(())
}

#[test]
fn a_disputed_file_that_is_private_today_is_not_shown_in_a_report() -> Result {
    for (today, shown) in [(Some(0o644), true), (Some(0o600), false), (None, false)] {
        let system = System::new()?;
        eventful(&system)?;
        match today {
            Some(mode) => system.mode("etc/profile", mode)?,
            None => fs::remove_file(system.path("etc/profile"))?,
        }
        let said = printed(&system.run(&["config", "report"])?);
        assert_eq!(said.contains("TWO"), shown, "{today:?}: {said}");
        let hint = "      not shown: only its owner may read it\n";
        assert_eq!(said.matches(hint).count(), usize::from(!shown), "{said}");
    }
    Ok(())
}

#[test]
fn a_baseline_is_stored_once() -> Result {
    let system = System::new()?;
    let output = system.run(&["config", "baseline"])?;
    check(&output, 0, "0 generated defaults are stored, 0 bytes\n");
    let output = system.run(&["--json", "config", "baseline"])?;
    assert_eq!(document(&output)["baseline"], "already-there", "{output:?}");
    let system = System::new()?;
    system.put("etc/config/network", NETWORK)?;
    let answer = document(&system.run(&["--json", "config", "baseline"])?);
    assert_eq!(answer["entries"], 1, "{answer}");
    let stored = system.text("etc/sysupgrade/baseline/etc/config/network")?;
    assert_eq!(stored, NETWORK);
    check(&system.run(&["config", "diff"])?, 0, "");
    let system = System::new()?;
    fs::remove_dir_all(system.path("rom"))?;
    let output = system.run(&["config", "baseline"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    Ok(())
}

/// Three directories that are merged.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new(files: &[(&str, &str)]) -> Result<Self> {
        let desk = Self(tempfile::tempdir()?);
        for dir in ["base", "user", "new"] {
            fs::create_dir_all(desk.path(dir))?;
        }
        for (path, content) in files {
            let path = desk.path(path);
            fs::create_dir_all(path.parent().ok_or("a file in a tree")?)?;
            fs::write(&path, content)?;
        }
        Ok(desk)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn merge(&self, words: &[&str]) -> Result<Output> {
        let mut command = program();
        command.current_dir(self.0.path()).args(["config", "merge"]);
        command.args(["--base", "base", "--user", "user", "--new", "new"]);
        Ok(command.args(words).output()?)
    }
}

fn lease(time: &str) -> String {
    format!("config dhcp 'lan'\n\toption leasetime '{time}'\n")
}

#[test]
fn a_merge_writes_its_result_and_says_what_needs_review() -> Result {
    let (b, u, n) = (lease("12h"), lease("24h"), lease("6h"));
    let desk = Desk::new(&[
        ("base/etc/config/dhcp", &b),
        ("user/etc/config/dhcp", &u),
        ("new/etc/config/dhcp", &n),
        ("base/etc/banner", "1\n"),
        ("user/etc/banner", "1\n"),
        ("new/etc/banner", "2\n"),
    ])?;
    let expected = "\
needs your decision
  /etc/config/dhcp#lan.leasetime: you and the image changed it; yours stays
      default  12h
      yours    24h
      new      6h

will follow the image
  /etc/banner: changed
";
    check(&desk.merge(&["--plan"])?, 3, expected);
    check(&desk.merge(&["--plan", "--out", "out"])?, 3, expected);
    assert!(!desk.path("out").exists(), "a plan writes nothing");
    check(&desk.merge(&["--out", "out"])?, 3, expected);
    assert_eq!(fs::read_to_string(desk.path("out/etc/config/dhcp"))?, u);
    assert_eq!(fs::read_to_string(desk.path("out/etc/banner"))?, "2\n");

    let output = desk.merge(&["--out", "out"])?;
    assert_eq!(output.status.code(), Some(2), "it is not empty: {output:?}");
    let answer = document(&desk.merge(&["--plan", "--json"])?);
    for (key, value) in [
        ("ok", json!(true)),
        ("exit", json!(3)),
        ("format", json!(1)),
        ("summary", json!({"conflict-user": 1, "updated": 1})),
    ] {
        assert_eq!(answer[key], value, "{key}: {answer}");
    }
    Ok(())
}

#[test]
fn a_refused_merge_is_exit_code_22_and_writes_nothing() -> Result {
    let desk = Desk::new(&[
        ("base/etc/x", "1\n"),
        ("user/etc/x", "2\n"),
        ("new/etc/x", "3\n"),
        ("context", r#"{"policy": ["/etc/x conflict=fail"]}"#),
    ])?;
    let words = ["--out", "out", "--context", "context"];
    let output = desk.merge(&words)?;
    assert_eq!(output.status.code(), Some(22), "{output:?}");
    assert!(
        text(&output).starts_with("blocked\n  etc/x: "),
        "{output:?}"
    );
    let answer = document(&desk.merge(&[&words[..], &["--json"]].concat())?);
    assert_eq!(
        (&answer["ok"], &answer["exit"]),
        (&json!(false), &json!(22))
    );
    assert_eq!(
        answer["blocked"].as_array().map(Vec::len),
        Some(1),
        "{answer}"
    );
    assert!(!desk.path("out").exists());
    Ok(())
}

#[test]
fn a_merge_without_disputes_is_exit_code_0_and_a_context_that_makes_no_sense_is_2() -> Result {
    let desk = Desk::new(&[
        ("user/etc/mine", "x\n"),
        ("context", r#"{"scope": "everything"}"#),
    ])?;
    let yours = "yours, as they are\n  1 added by you\n";
    check(&desk.merge(&["--out", "out"])?, 0, yours);
    let output = desk.merge(&["--plan", "--context", "context"])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(printed(&output).contains("scope"), "{output:?}");
    Ok(())
}

#[test]
fn no_secret_is_told_by_a_merge() -> Result {
    let wifi = |key: &str| {
        format!("config wifi-iface 'w'\n\toption ssid 'a'\n\toption key '{key}{PLANTED}'\n")
    };
    let (b, u, n) = (wifi("b"), wifi("u"), wifi("n"));
    let desk = Desk::new(&[
        ("base/etc/config/wireless", &b),
        ("user/etc/config/wireless", &u),
        ("new/etc/config/wireless", &n),
        ("base/etc/my.key", "b"),
        ("user/etc/my.key", PLANTED),
        ("new/etc/my.key", "n"),
        ("base/etc/config/broken", &b),
        ("user/etc/config/broken", &u.replace("'a'", "'a")),
        ("new/etc/config/broken", &n),
    ])?;
    for dir in ["base", "user", "new"] {
        let key = desk.path(&format!("{dir}/etc/my.key"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600))?;
    }
    for words in [&["--plan"][..], &["--plan", "-vv"], &["--plan", "--json"]] {
        let output = desk.merge(words)?;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(!printed(&output).contains(PLANTED), "{words:?}: {output:?}");
    }
    let said = printed(&desk.merge(&["--plan"])?);
    assert!(said.contains("      yours    (secret)\n"), "{said}");
    assert!(
        said.contains("not shown: only its owner may read it"),
        "{said}"
    );
    Ok(())
}

#[test]
fn cases_are_run_and_each_difference_is_shown() -> Result {
    let desk = Desk::new(&[
        ("good/old-default/etc/x", "1\n"),
        ("good/user/etc/x", "1\n"),
        ("good/new-default/etc/x", "2\n"),
        ("good/expected/etc/x", "2\n"),
        ("good/case.json", r#"{"expect": {"exit": 0}}"#),
        ("bad/old-default/etc/x", "1\n"),
        ("bad/user/etc/x", "1\n"),
        ("bad/new-default/etc/x", "2\n"),
        ("bad/expected/etc/x", "1\n"),
        ("bad/case.json", r#"{"expect": {"exit": 2}}"#),
    ])?;
    let run = |words: &[&str]| {
        let mut command = program();
        command.current_dir(desk.0.path()).args(["config", "test"]);
        command.args(words).output()
    };
    check(&run(&["good"])?, 0, "ok   good\n");
    let output = run(&["good", "bad", "none"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output);
    assert!(said.starts_with("ok   good\nBAD  bad\n     "), "{said}");
    assert!(said.contains("\nBAD  none\n     "), "{said}");
    assert!(said.contains("etc/x"), "{said}");
    let answer = document(&run(&["--json", "good", "bad"])?);
    assert_eq!((&answer["ok"], &answer["exit"]), (&json!(false), &json!(1)));
    assert_eq!(
        answer["cases"][0],
        json!({"case": "good", "ok": true, "differences": []})
    );
    assert_eq!(answer["cases"][1]["ok"], false, "{answer}");
    Ok(())
}
