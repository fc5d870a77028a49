//! What the package for OpenWrt installs and other programs call: the check of an image, and the ubus
//! object. Run by the shells it may meet: busybox, as there, and dash.
//!
//! Played by stand-ins: `jsonfilter` (by jq), procd, preinit and stage2, as far as they call us. The
//! tool is the real one on a virtual router, or one that says what the test wants to have said.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::images::Device;
use crate::programs;
use crate::vectors;
use crate::world::router::Booted;
use crate::world::router::Router;
use crate::world::{System, World};

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

pub(crate) const SHELLS: [&[&str]; 2] = [&["busybox", "sh"], &["dash"]];

const JSONFILTER: &str = r#"#!/bin/sh
# jsonfilter -e @.PATH, as far as it is used here.
path=$(printf '%s' "${2#@}" | sed 's/\[\*\]/[]/g')
exec jq -r "$path | select(. != null)"
"#;

/// A file of the package, by where it is installed.
pub(crate) fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts/openwrt/files")
        .join(name)
}

/// A version of a router with the package on it.
pub(crate) fn system(version: u8) -> Result<System> {
    let mut system = System::new(version);
    let device = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/device/first-boot");
    system.root.put_file(
        "lib/sysupgrade-rs/first-boot",
        0o755,
        &fs::read_to_string(device)?,
    );
    system.root.put_file(
        "etc/sysupgrade-rs/board.toml",
        0o644,
        sysupgrade_rs::board::VIRTUAL,
    );
    Ok(system)
}

/// A running router, and programs that are found before those of this machine.
pub(crate) struct Stage {
    pub(crate) world: World,
    bin: PathBuf,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        // Images are uploaded to /tmp.
        let dir = tempfile::Builder::new()
            .prefix("firmware")
            .tempdir_in("/tmp")?;
        let router = Router::at(&dir.path().join("router"))?;
        let bin = dir.path().join("bin");
        fs::create_dir(&bin)?;
        let world = World::with(dir, router, &system(1)?)?;
        assert!(matches!(world.router.boot(|| Ok(true))?, Booted::Up(_)));
        let stage = Self { world, bin };
        stage.program("jsonfilter", JSONFILTER)?;
        // Never this machine's.
        stage.program("reboot", "#!/bin/sh\necho \"reboot $*\" >>log\n")?;
        stage.real_tool()?;
        Ok(stage)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.dir().join(name)
    }

    pub(crate) fn program(&self, name: &str, text: &str) -> Result {
        Ok(programs::write(&self.bin.join(name), text)?)
    }

    /// `sysupgrade-rs` is this from now on, after it has noted how it was called.
    pub(crate) fn tool(&self, text: &str) -> Result {
        let log = self.path("called");
        let log = log.display();
        let note = format!(r#"printf '[%s]' "$@" >>{log}; echo >>{log}"#);
        self.program("sysupgrade-rs", &format!("#!/bin/sh\n{note}\n{text}\n"))
    }

    pub(crate) fn real_tool(&self) -> Result {
        let tool = env!("CARGO_BIN_EXE_sysupgrade-rs");
        let root = self.world.router.dir().display();
        self.tool(&format!("exec {tool} --root {root} \"$@\""))
    }

    /// A tool with this answer.
    pub(crate) fn tool_that_says(&self, answer: &Value, code: u8) -> Result {
        self.tool(&format!("echo '{answer}'; exit {code}"))
    }

    /// How the tool was called since this was asked last, a line a call.
    pub(crate) fn called(&self) -> Result<String> {
        let calls = fs::read_to_string(self.path("called")).unwrap_or_default();
        fs::write(self.path("called"), "")?;
        Ok(calls)
    }

    pub(crate) fn image(&self, version: u8) -> Result<PathBuf> {
        let path = self.path("firmware.bin");
        fs::write(&path, self.world.image(&system(version)?)?)?;
        Ok(path)
    }

    /// A shell of the router; a test that waits in vain ends.
    pub(crate) fn shell(&self, shell: &[&str]) -> Result<Command> {
        let mut command = Command::new("timeout");
        let path = std::env::var("PATH")?;
        command
            .arg("120")
            .args(shell)
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("IPKG_INSTROOT", self.world.router.dir())
            .current_dir(self.world.dir())
            .stdin(Stdio::null());
        Ok(command)
    }

    pub(crate) fn run(&self, shell: &[&str], script: &str, words: &[&str]) -> Result<Output> {
        let mut command = self.shell(shell)?;
        Ok(command.arg(installed(script)).args(words).output()?)
    }

    fn verdict(&self, shell: &[&str], words: &[&str]) -> Result<(Value, String)> {
        let script = "usr/libexec/sysupgrade-rs/validate_firmware_image";
        let output = self.run(shell, script, words)?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let document = serde_json::from_slice(&output.stdout);
        let document = document.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        Ok((document, String::from_utf8(output.stderr)?))
    }

    /// A call of the ubus object.
    fn ask(&self, shell: &[&str], method: &str, arguments: &str) -> Result<Value> {
        let mut command = self.shell(shell)?;
        command
            .arg(installed("usr/libexec/rpcd/sysupgrade-rs"))
            .args(["call", method])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        // A method without arguments does not read them.
        let _ = child
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(arguments.as_bytes()));
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(0), "{method} {arguments}");
        let document = serde_json::from_slice(&output.stdout);
        Ok(document.unwrap_or_else(|error| panic!("{method}: {error}: {output:?}")))
    }
}

fn no() -> Value {
    json!({"tests": {}, "valid": false, "forceable": false, "allow_backup": false})
}

#[test]
fn validate_passes_on_the_five_verdicts_of_the_tool_and_nothing_else() -> Result {
    let stage = Stage::new()?;
    for number in 0..32_u8 {
        let flag = |bit: u8| number & (1 << bit) != 0;
        let verdict = json!({
            "tests": {"fwtool_signature": flag(0), "fwtool_device_match": flag(1)},
            "valid": flag(2), "forceable": flag(3), "allow_backup": flag(4),
        });
        let mut answer = verdict.clone();
        answer["image"] = json!({"kind": "sysupgrade-tar", "valid": true});
        answer["refusals"] = json!([
            {"reason": "wrong-board", "message": "image is for x, this is y", "hint": "get another"},
            {"reason": "damaged", "message": "cut short", "hint": "download again"},
        ]);
        stage.tool_that_says(&answer, if flag(2) { 0 } else { 20 })?;
        let shell = SHELLS[usize::from(number % 2)];
        let (said, log) = stage.verdict(shell, &["/tmp/firmware.bin"])?;
        assert_eq!(said, verdict);
        assert_eq!(log, "image is for x, this is y\ncut short\n");
    }
    assert!(stage.called()?.starts_with("[-T][-n][--json]"));
    Ok(())
}

#[test]
fn validate_says_no_when_the_tool_does_not_speak() -> Result {
    let stage = Stage::new()?;
    for (tool, expected_log) in [
        ("kill -9 $$", ""),
        ("exit 0", ""),
        ("echo '{\"valid\": \"yes\"}'", ""),
        (
            "echo '{\"tests\": {\"fwtool_signature\": true}, \"valid\": tr'; kill -9 $$",
            "",
        ),
        (
            "echo '{\"ok\": false, \"exit\": 30, \"message\": \"there is no board file\"}'; exit 30",
            "there is no board file\n",
        ),
    ] {
        stage.tool(tool)?;
        for shell in SHELLS {
            let (said, log) = stage.verdict(shell, &["/tmp/firmware.bin"])?;
            assert_eq!(said, no(), "{tool}");
            assert!(log.ends_with(expected_log), "{tool}: {log}");
        }
    }
    Ok(())
}

#[test]
fn validate_takes_any_word_for_a_file() -> Result {
    let stage = Stage::new()?;
    stage.tool("exit 2")?;
    for (word, passed) in [
        ("--help", "[./--help]"),
        ("-", "[./-]"),
        ("status", "[./status]"),
        ("http://192.0.2.1/x", "[./http://192.0.2.1/x]"),
        ("/tmp/a b;$(reboot)'\"", "[/tmp/a b;$(reboot)'\"]"),
        ("", "[./]"),
    ] {
        for shell in SHELLS {
            assert_eq!(stage.verdict(shell, &[word])?.0, no(), "{word}");
            let calls = stage.called()?;
            assert!(calls.ends_with(&format!("{passed}\n")), "{word}: {calls}");
        }
    }
    assert_eq!(stage.verdict(SHELLS[0], &[])?.0, no());
    Ok(())
}

/// What of a document of the tool's is OpenWrt's.
fn stock_part(document: &Value) -> Value {
    let tests = &document["tests"];
    json!({
        "tests": {
            "fwtool_signature": tests["fwtool_signature"],
            "fwtool_device_match": tests["fwtool_device_match"],
        },
        "valid": document["valid"],
        "forceable": document["forceable"],
        "allow_backup": document["allow_backup"],
    })
}

#[test]
fn procd_hears_of_every_recorded_image_what_the_tool_says_without_configuration() -> Result {
    let stage = Stage::new()?;
    let expected = vectors::json("expected.json");
    let (mut valid, mut without_configuration) = (0, 0);
    for name in ["default", "compat-1.2"] {
        let profile = &expected["profiles"][name];
        let device = Device::new(profile);
        let clock = profile["clock"].as_str().ok_or("a profile has a clock")?;
        let (tool, root) = (env!("CARGO_BIN_EXE_sysupgrade-rs"), device.root().display());
        let now = vectors::seconds(clock);
        stage.tool(&format!("exec {tool} --root {root} --now {now} \"$@\""))?;
        let images = expected["images"].as_array().ok_or("images")?.iter();
        let images = images.filter(|image| image["profiles"].get(name).is_some());
        for (number, image) in images.enumerate() {
            let image = vectors::path(image["file"].as_str().ok_or("a file")?);
            let (code, document) = device.test(&image, &["-n"]);
            let path = image.to_str().ok_or("text")?;
            let (said, log) = stage.verdict(SHELLS[number % 2], &[path])?;
            assert_eq!(said, stock_part(&document), "{path} on {name}");
            assert_eq!(said["valid"] == true, code == 0, "{path} on {name}");
            for refusal in document["refusals"].as_array().into_iter().flatten() {
                let message = refusal["message"].as_str().ok_or("a message")?;
                assert!(log.contains(message), "{path} on {name}: {log}");
            }
            valid += u32::from(said["valid"] == true);
            without_configuration +=
                u32::from(said["valid"] == true && said["allow_backup"] == false);
        }
    }
    assert!(valid > 10, "{valid} are valid");
    assert!(without_configuration > 0);
    Ok(())
}

#[test]
fn images_of_our_own_are_valid_and_what_is_none_is_not() -> Result {
    let stage = Stage::new()?;
    let image = stage.image(2)?;
    let path = image.to_str().ok_or("text")?;
    let yes = json!({
        "tests": {"fwtool_signature": true, "fwtool_device_match": true},
        "valid": true, "forceable": true, "allow_backup": true,
    });
    let bytes = fs::read(&image)?;
    for shell in SHELLS {
        fs::write(&image, &bytes)?;
        assert_eq!(stage.verdict(shell, &[path])?.0, yes);
        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for bad in [&flipped[..], &bytes[..middle], b"no image", b""] {
            fs::write(&image, bad)?;
            let (said, log) = stage.verdict(shell, &[path])?;
            assert_eq!(said["valid"], false);
            assert_eq!(said["forceable"], false);
            assert_ne!(log, "");
        }
        fs::remove_file(&image)?;
        let (said, log) = stage.verdict(shell, &[path])?;
        assert_eq!(said["valid"], false);
        assert_ne!(log, "");
    }
    Ok(())
}

/// Where an argument that is not a file below /tmp is tried.
const HOSTILE: [&str; 16] = [
    r#"{"path": "--help"}"#,
    r#"{"path": "-"}"#,
    r#"{"path": "/etc/shadow; reboot"}"#,
    r#"{"path": "/etc/shadow"}"#,
    r#"{"path": "/tmp/../etc/passwd"}"#,
    r#"{"path": "/tmp/.."}"#,
    r#"{"path": "/tmp/firmware.bin\n--force"}"#,
    r#"{"path": "\n/tmp/firmware.bin"}"#,
    r#"{"path": "/tmp/nothing $(reboot) `reboot`"}"#,
    r#"{"path": "http://192.0.2.1/firmware.bin"}"#,
    r#"{"path": "/tmp"}"#,
    r#"{"path": ["/tmp/firmware.bin"]}"#,
    r#"{"path": 5}"#,
    r#"{"path": null}"#,
    r"{}",
    r"not JSON",
];

#[test]
fn a_path_that_is_no_upload_never_reaches_the_tool() -> Result {
    let stage = Stage::new()?;
    let link = stage.path("link.bin");
    std::os::unix::fs::symlink("/etc/passwd", &link)?;
    let lines = stage.path("two\nlines.bin");
    fs::write(&lines, "")?;
    let more = [
        json!({ "path": link }).to_string(),
        json!({ "path": lines }).to_string(),
        json!({ "path": "/tmp/", "more": "x".repeat(100_000) }).to_string(),
    ];
    let arguments = HOSTILE.into_iter().chain(more.iter().map(String::as_str));
    for (number, arguments) in arguments.enumerate() {
        for method in ["plan", "validate", "start"] {
            let answer = stage.ask(SHELLS[number % 2], method, arguments)?;
            assert_eq!(answer["ok"], false, "{arguments}");
            assert_eq!(answer["exit"], 2, "{arguments}");
        }
        // Each shell reads patterns by its own code.
        let answer = stage.ask(SHELLS[(number + 1) % 2], "start", arguments)?;
        assert_eq!(answer["exit"], 2, "{arguments}");
    }
    assert_eq!(stage.called()?, "");
    Ok(())
}

#[test]
fn a_strange_name_is_one_word_and_choices_are_options() -> Result {
    let stage = Stage::new()?;
    stage.tool_that_says(&json!({"ok": true}), 0)?;
    let image = stage.path("a b;$(reboot)'\"*.bin");
    fs::write(&image, "")?;
    let path = image.to_str().ok_or("text")?;
    let end = format!("[{path}][--json][--progress=none]\n");
    for (method, choices, words) in [
        ("plan", json!({}), "[plan]"),
        (
            "plan",
            json!({"keep": false, "force": true}),
            "[plan][-n][-F]",
        ),
        ("plan", json!({"keep": "--force", "force": "yes"}), "[plan]"),
        (
            "validate",
            json!({"keep": false, "force": true}),
            "[-T][-n]",
        ),
    ] {
        for shell in SHELLS {
            let mut arguments = choices.clone();
            arguments["path"] = path.into();
            let answer = stage.ask(shell, method, &arguments.to_string())?;
            assert_eq!(answer, json!({"ok": true}));
            assert_eq!(stage.called()?, format!("{words}{end}"));
        }
    }
    Ok(())
}

#[test]
fn methods_without_arguments_ask_the_tool_and_silence_is_an_answer() -> Result {
    let stage = Stage::new()?;
    for shell in SHELLS {
        stage.tool_that_says(&json!({"ok": true}), 0)?;
        for (method, words) in [
            ("status", "[status]"),
            ("report", "[config][report]"),
            ("confirm", "[confirm]"),
            ("rollback", "[rollback][-d][5]"),
        ] {
            assert_eq!(stage.ask(shell, method, "{}")?, json!({"ok": true}));
            let call = format!("{words}[--json][--progress=none]\n");
            assert_eq!(stage.called()?, call);
        }
        stage.tool("kill -9 $$")?;
        for method in ["status", "report", "confirm", "rollback"] {
            let answer = stage.ask(shell, method, "{}")?;
            assert_eq!(answer["ok"], false, "{method}");
            assert_eq!(answer["message"], "sysupgrade-rs gave no answer");
        }
        stage.called()?;
        for method in ["", "reboot", "--help"] {
            assert_eq!(stage.ask(shell, method, "{}")?["exit"], 2);
        }
        assert_eq!(stage.called()?, "");
    }
    Ok(())
}

#[test]
fn rollback_answers_before_the_tool_goes_on_to_the_reboot() -> Result {
    let stage = Stage::new()?;
    let gate = stage.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status()?.success());
    let gate = gate.display();
    for shell in SHELLS {
        // It would wait for ever if the call did.
        stage.tool(&format!("echo '{{\"slot\":\"a\"}}'; echo went on >{gate}"))?;
        assert_eq!(stage.ask(shell, "rollback", "{}")?["slot"], "a");
        assert_eq!(fs::read_to_string(stage.path("gate"))?, "went on\n");
    }
    Ok(())
}

#[test]
fn start_answers_at_once_and_a_second_one_is_told_to_wait() -> Result {
    let stage = Stage::new()?;
    let gate = stage.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status()?.success());
    let image = stage.path("firmware.bin");
    fs::write(&image, "")?;
    let arguments = json!({ "path": image, "keep": false }).to_string();
    for shell in SHELLS {
        stage.tool(&format!(
            "read -r x <{}; echo '{{\"done\":true}}'",
            gate.display()
        ))?;
        assert_eq!(stage.ask(shell, "start", &arguments)?["started"], true);
        let progress = stage.ask(shell, "progress", "{}")?;
        assert_eq!(
            (&progress["running"], &progress["result"]),
            (&json!(true), &Value::Null)
        );
        let second = stage.ask(shell, "start", &arguments)?;
        assert_eq!((&second["ok"], &second["exit"]), (&json!(false), &json!(4)));
        fs::write(&gate, "go on\n")?;
        assert_eq!(stage.finished(shell)?["result"], json!({"done": true}));
        let call = format!(
            "[-d][5][-n][{}][--json][--progress=none]\n",
            image.display()
        );
        assert_eq!(stage.called()?, call);
    }
    Ok(())
}

#[test]
fn a_number_that_has_gone_to_another_program_does_not_stop_the_next_start() -> Result {
    let stage = Stage::new()?;
    stage.tool_that_says(&json!({"ok": true}), 0)?;
    let image = stage.path("firmware.bin");
    fs::write(&image, "")?;
    let run = stage.world.router.dir().join("run/sysupgrade-rs");
    fs::create_dir_all(&run)?;
    for number in ["1", "", "x", "../1", "99999999999"] {
        fs::write(run.join("pid"), number)?;
        let arguments = json!({ "path": image }).to_string();
        let answer = stage.ask(SHELLS[0], "start", &arguments)?;
        assert_eq!(answer["started"], true, "{number}");
        stage.finished(SHELLS[0])?;
    }
    Ok(())
}

impl Stage {
    /// What progress says once the upgrade is over.
    fn finished(&self, shell: &[&str]) -> Result<Value> {
        let since = std::time::Instant::now();
        loop {
            let progress = self.ask(shell, "progress", "{}")?;
            if progress["running"] == false {
                return Ok(progress);
            }
            if since.elapsed().as_secs() > 100 {
                return Err(format!("still at work: {progress}").into());
            }
        }
    }
}

#[test]
fn a_page_upgrades_a_router_keeps_the_new_system_and_goes_back() -> Result {
    for shell in SHELLS {
        let stage = Stage::new()?;
        let router = &stage.world.router;
        let image = stage.image(2)?;
        let arguments = json!({ "path": image }).to_string();

        assert_eq!(stage.ask(shell, "status", "{}")?["standing"], "good");
        assert_eq!(stage.ask(shell, "plan", &arguments)?["version"], "2");
        assert_eq!(stage.ask(shell, "start", &arguments)?["started"], true);
        let progress = stage.finished(shell)?;
        assert_eq!(progress["status"]["state"], "finished");
        assert_eq!(progress["status"]["exit"], 0);
        assert_eq!(progress["result"]["version"], "2");

        assert!(matches!(
            router.boot(|| crate::world::first_boot(router))?,
            Booted::Up(_)
        ));
        assert_eq!(stage.ask(shell, "status", "{}")?["standing"], "on-trial");
        assert_eq!(stage.ask(shell, "report", "{}")?["ok"], true);
        assert_eq!(stage.ask(shell, "confirm", "{}")?["changed"], true);
        assert_eq!(stage.ask(shell, "rollback", "{}")?["slot"], "a");
        assert!(matches!(
            router.boot(|| crate::world::first_boot(router))?,
            Booted::Up(_)
        ));
        assert_eq!(stage.ask(shell, "status", "{}")?["running"]["version"], "1");

        for (text, exit) in [("hsqs, and nobody has signed it", 11), ("no image", 10)] {
            fs::write(&image, text)?;
            assert_eq!(stage.ask(shell, "start", &arguments)?["started"], true);
            let progress = stage.finished(shell)?;
            assert_eq!(progress["result"]["exit"], exit, "{progress}");
            assert_eq!(progress["status"]["exit"], exit, "{progress}");
        }
    }
    Ok(())
}

#[test]
fn the_list_names_the_methods_and_the_acl_gives_each_to_one_right() -> Result {
    let stage = Stage::new()?;
    let mut methods = Vec::new();
    for shell in SHELLS {
        let output = stage.run(shell, "usr/libexec/rpcd/sysupgrade-rs", &["list"])?;
        let list: Value = serde_json::from_slice(&output.stdout)?;
        methods = list
            .as_object()
            .ok_or("no object")?
            .keys()
            .cloned()
            .collect();
        // rpcd takes the type of each argument from an example of it.
        for method in ["plan", "validate", "start"] {
            assert!(list[method]["path"].is_string() && list[method]["keep"].is_boolean());
        }
    }
    let acl = fs::read(installed("usr/share/rpcd/acl.d/sysupgrade-rs.json"))?;
    let acl: Value = serde_json::from_slice(&acl)?;
    let granted = |right: &str| -> Vec<String> {
        let names = acl["sysupgrade-rs"][right]["ubus"]["sysupgrade-rs"].as_array();
        let names = names.into_iter().flatten();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    assert_eq!(granted("read"), ["status", "report", "progress"]);
    let mut all = [granted("read"), granted("write")].concat();
    all.sort_unstable();
    methods.sort_unstable();
    assert_eq!(all, methods);
    Ok(())
}
