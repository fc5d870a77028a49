//! The command as its callers see it: words in, exit code, standard output and standard error out.

mod world;

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flate2::read::GzDecoder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sysupgrade_rs::files;
use sysupgrade_rs::image::{Encoding, PartSource, Spec, build};
use sysupgrade_rs::slots::Slot;
use sysupgrade_rs::trust::usign::SecretKey;
use world::router::{Booted, Router};
use world::snapshot::Snapshot;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Room in a part of the router.
const PART_SIZE: usize = 512 << 10;

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sysupgrade-rs"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Result<Output> {
    Ok(command(words).output()?)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what is printed is text")
}

/// The one JSON document of an answer.
fn document(output: &Output) -> Value {
    let text = text(&output.stdout);
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The root of a system of that version, which trusts this key.
fn system(key: &SecretKey, version: &str, filling: &[u8]) -> Result<Snapshot> {
    let tree = tempfile::tempdir()?;
    let public = key.public();
    let key_file = format!("etc/sysupgrade-rs/keys/{}", public.id());
    let os_release = format!("VERSION_ID=\"{version}\"\n");
    for (path, content) in [
        ("etc/os-release", os_release.as_bytes()),
        ("etc/config/network", b"as shipped\n"),
        ("lib/upgrade/keep.d/base", b"/etc/config/\n"),
        (&key_file, public.to_text("maker").as_bytes()),
        ("filling", filling),
    ] {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().ok_or("a file in a tree")?)?;
        fs::write(path, content)?;
    }
    Ok(Snapshot::read(tree.path())?)
}

/// A running virtual router, a key that it trusts, and images.
struct Site {
    dir: tempfile::TempDir,
    router: Router,
    maker: SecretKey,
    stranger: SecretKey,
}

impl Site {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let maker = SecretKey::from_seed([1; 8], &[2; 32]);
        let stranger = SecretKey::from_seed([3; 8], &[4; 32]);
        let root = system(&maker, "1.0", b"")?.to_tar()?;
        let router = Router::at(&dir.path().join("router"))?;
        fs::create_dir(router.dir())?;
        router.create(b"kernel", &root, PART_SIZE)?;
        assert_eq!(router.boot(|| Ok(true))?, Booted::Up(Slot::First));
        fs::write(router.dir().join("etc/config/network"), "as edited\n")?;
        Ok(Self {
            dir,
            router,
            maker,
            stranger,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of version 2.0, changed as wanted.
    fn image(&self, key: &SecretKey, change: impl FnOnce(&mut Spec)) -> Result<PathBuf> {
        // No two blocks are alike, and none is what flash holds when it is erased.
        let filling: Vec<u8> = (0..40_000_u64).flat_map(u64::to_le_bytes).collect();
        let root = system(&self.maker, "2.0", &filling)?.to_tar()?;
        let mut parts = Vec::new();
        for (name, content) in [("kernel", &filling), ("root", &root)] {
            let path = self.path(&format!("{name}.part"));
            fs::write(&path, content)?;
            let name = name.to_owned();
            parts.push(PartSource { name, path });
        }
        let mut spec = Spec {
            boards: vec!["virtual,router".into()],
            version: "2.0".into(),
            security: 0,
            compat: "1.0".into(),
            migrates_from: Vec::new(),
            engine: 1,
            parts,
            defaults: None,
            generated: std::collections::BTreeMap::new(),
            block_size: 4096,
            encoding: Encoding::Plain,
            openwrt: false,
        };
        change(&mut spec);
        let path = self.path("image.bin");
        let mut bytes = Vec::new();
        build(&spec, std::slice::from_ref(key), &mut bytes)?;
        fs::write(&path, bytes)?;
        Ok(path)
    }

    fn good_image(&self) -> Result<PathBuf> {
        self.image(&self.maker, |_| {})
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&["--root"]);
        command.arg(self.router.dir()).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command(words).output()?)
    }

    fn run_on(&self, words: &[&str], image: &Path) -> Result<Output> {
        Ok(self.command(words).arg(image).output()?)
    }

    /// What outlives power, without the record of what happened.
    fn persistent(&self) -> Result<[Snapshot; 2]> {
        let mut data = Snapshot::read(&self.router.dir().join("data"))?;
        data.remove("sysupgrade-rs");
        Ok([Snapshot::read(&self.router.dir().join("flash"))?, data])
    }

    fn status(&self) -> Result<Value> {
        Ok(document(&self.run(&["--json", "status"])?))
    }

    fn status_file(&self) -> Result<Value> {
        let path = self.router.dir().join("run/sysupgrade-rs/status.json");
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }
}

#[test]
fn help_and_version_are_answers() -> Result {
    for (words, expected) in [
        (&["--help"][..], "Exit codes:"),
        (&["-h"], "Usage: sysupgrade-rs [OPTIONS] IMAGE"),
        (
            &["--version"],
            concat!("sysupgrade-rs ", env!("CARGO_PKG_VERSION")),
        ),
        (&["plan", "--help"], "Usage: sysupgrade-rs plan"),
    ] {
        let output = run(words)?;
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let answer = text(&output.stdout);
        assert!(answer.contains(expected), "{words:?}: {answer}");
        assert_eq!(text(&output.stderr), "", "{words:?}");
    }
    Ok(())
}

#[test]
fn a_usage_error_is_exit_code_2_with_a_hint_and_leaves_stdout_empty() -> Result {
    for (words, expected) in [
        (&[][..], "no IMAGE"),
        (&["--frobnicate"], "--frobnicate"),
        (&["-n"], "--no-config needs an IMAGE"),
        (&["-b", "x", "image"], "one at a time"),
        (&["-s", "image"], "the other slot is written, always"),
        (&["-d", "soon", "image"], "soon"),
        (&["status", "more"], "more"),
    ] {
        let output = run(words)?;
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(text(&output.stdout), "", "{words:?}");
        let said = text(&output.stderr);
        assert!(said.contains(expected), "{words:?}: {said}");
        assert!(said.contains("--help"), "{words:?}: {said}");
    }
    Ok(())
}

#[test]
fn escape_sequences_never_reach_the_terminal() -> Result {
    for words in [
        &["--\u{1b}[2J"][..],
        &["--progress", "\u{1b}[2J", "image"],
        &["inspect", "/\u{1b}[2J"],
        &["--board", "/\u{1b}[2J", "status"],
    ] {
        let output = run(words)?;
        assert_ne!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stderr.contains(&0x1b), "{words:?}: {output:?}");
    }
    let output = command(&[]).arg(OsStr::from_bytes(b"--\xff")).output()?;
    assert_eq!(output.status.code(), Some(2));

    // A version that clears the screen, in an image that nobody has verified yet.
    let site = Site::new()?;
    let image = site.image(&site.maker, |spec| spec.version = "VVVVVV[2J".into())?;
    let mut bytes = fs::read(&image)?;
    let at = bytes.windows(6).position(|window| window == b"VVVVVV");
    let place = at.and_then(|at| bytes.get_mut(at..at + 6));
    place.ok_or("no version")?.copy_from_slice(br"\u001b");
    fs::write(&image, bytes)?;
    for words in [&["inspect"][..], &["--json", "inspect"], &["plan"]] {
        let output = site.run_on(words, &image)?;
        let printed = [output.stdout.as_slice(), &output.stderr].concat();
        assert!(!printed.contains(&0x1b), "{words:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn status_doctor_history_and_list_answer_in_one_json_document() -> Result {
    let site = Site::new()?;
    for command in ["status", "doctor", "history", "-l"] {
        let output = site.run(&["--json", command])?;
        let answer = document(&output);
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        assert_eq!(answer["exit"], 0, "{command}: {answer}");
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert_eq!(text(&output.stderr), "", "{command}");
    }
    let status = site.status()?;
    assert_eq!(status["running"]["name"], "a", "{status}");
    assert_eq!(status["running"]["version"], "1.0", "{status}");
    Ok(())
}

#[test]
fn the_doctor_names_a_damaged_boot_environment_and_repairs_it_when_asked_to() -> Result {
    let site = Site::new()?;
    let env = site.router.dir().join("flash/env");
    let whole = fs::read(&env)?;
    let half = [&whole[..512], &[0; 512]].concat();
    let other = text(&whole).replace("BOOT_ORDER=A B", "BOOT_ORDER=A C");
    for (damaged, is_read) in [
        (half, true),
        (vec![0; 1024], false),
        (vec![b'#'; 7], false),
        (other.into_bytes(), false),
    ] {
        fs::write(&env, &damaged)?;
        let output = site.run(&["--json", "doctor"])?;
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(30), "{answer}");
        let checks = answer["checks"].as_array().ok_or("no checks")?;
        let of = |name: &str| checks.iter().find(|check| check["name"] == name);
        let check = of("boot environment").ok_or("no such check")?;
        assert_eq!(check["ok"], false, "{check}");
        let hint = check["hint"].as_str().ok_or("no hint")?;
        assert!(hint.contains("sysupgrade-rs doctor --repair-env"), "{hint}");
        assert_eq!(of("slots agree").is_some(), is_read, "{answer}");
        assert!(fs::read(&env)? == damaged, "the doctor only looks");

        let output = site.run(&["--json", "doctor", "--repair-env"])?;
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(0), "{answer}");
        let done = answer["repaired"].as_array().ok_or("no list")?;
        assert_eq!(done.len(), if is_read { 1 } else { 2 }, "{answer}");
        assert!(fs::read(&env)? == whole, "slot a is good, as before");
        assert_eq!(site.run(&["doctor"])?.status.code(), Some(0));

        let history = document(&site.run(&["--json", "history"])?);
        let last = history["history"].as_array().and_then(|list| list.last());
        let last = last.ok_or("no history")?;
        assert_eq!(last["what"], "repaired", "{last}");
        let message = last["message"].as_str().ok_or("no message")?;
        assert!(message.starts_with("boot environment repaired: "), "{last}");
    }
    let output = site.run(&["doctor", "--repair-env"])?;
    let said = "the boot environment is whole, there is nothing to repair\n";
    assert_eq!(text(&output.stdout), said);
    Ok(())
}

#[test]
fn an_image_is_inspected_without_a_board_from_a_file_and_from_a_pipe() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    let from_file = run(&["--json", "inspect", image.to_str().ok_or("a name")?])?;
    let from_pipe = command(&["--json", "inspect", "-"])
        .stdin(fs::File::open(&image)?)
        .output()?;
    for output in [from_file, from_pipe] {
        let answer = document(&output);
        assert!(answer.to_string().contains("virtual,router"), "{answer}");
        assert_eq!(output.status.code(), Some(0), "{answer}");
    }
    Ok(())
}

#[test]
fn an_install_answers_on_stdout_and_reports_progress_as_json_lines_on_stderr() -> Result {
    let site = Site::new()?;
    let output = site.run_on(&["--json", "--no-reboot"], &site.good_image()?)?;
    let answer = document(&output);
    assert_eq!(output.status.code(), Some(0), "{answer}");
    assert_eq!(answer["version"], "2.0");
    assert_eq!(answer["slot"], "b");

    let mut phases = Vec::new();
    let mut percents = Vec::new();
    for line in text(&output.stderr).lines() {
        let line: Value = serde_json::from_str(line)?;
        match line["event"].as_str() {
            Some("phase") => phases.push(line["phase"].as_str().unwrap_or("?").to_owned()),
            Some("progress") if line["phase"] == "flash" => percents.push(line["percent"].as_u64()),
            _ => {}
        }
    }
    let expected = ["verify", "plan", "flash", "read-back", "config", "commit"];
    assert_eq!(phases, expected);
    assert!(percents.is_sorted(), "{percents:?}");
    assert_eq!(percents.last(), Some(&Some(100)));

    let finished = serde_json::json!({"state": "finished", "exit": 0, "message": "done"});
    assert_eq!(site.status_file()?, finished);
    assert_eq!(site.status()?["next_boot"], "b");
    Ok(())
}

#[test]
fn an_install_tells_what_it_cost_in_its_answer_and_in_the_history() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    let first = document(&site.run_on(&["--json", "-n", "--no-reboot"], &image)?)["cost"].clone();
    let again = document(&site.run_on(&["--json", "-n", "--no-reboot"], &image)?)["cost"].clone();
    let bytes = |cost: &Value, key: &str| cost[key].as_u64().ok_or(format!("{key}: {cost}"));
    let size = bytes(&first, "written")? + bytes(&first, "unchanged")?;
    assert!(bytes(&first, "written")? > 0, "{first}");
    assert_eq!(bytes(&again, "written")?, 0, "it is there already");
    assert_eq!(bytes(&again, "unchanged")?, size);
    assert_eq!(bytes(&again, "read")?, 2 * size, "compared, and read back");
    assert!(bytes(&again, "peak_memory")? > 1 << 20, "{again}");
    let phases = ["verify", "plan", "flash", "read-back", "config", "commit"];
    let seconds = again["seconds"].as_object().ok_or("no seconds")?;
    assert!(
        phases.iter().all(|phase| seconds[*phase].is_f64()),
        "{again}"
    );

    let output = site.run(&["history"])?;
    let history = text(&output.stdout);
    assert!(history.contains("on trial: 0 B written, "), "{history}");
    let history = document(&site.run(&["history", "--json"])?);
    let last = history["history"].as_array().and_then(|all| all.last());
    let last = last.ok_or_else(|| format!("no entries: {history}"))?;
    assert_eq!(last["cost"], again, "{last}");
    Ok(())
}

#[test]
fn without_json_an_install_answers_in_one_line_and_quiet_says_nothing_else() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    for words in [&["-n", "--no-reboot", "-q"][..], &["-n", "--no-reboot"]] {
        let output = site.run_on(words, &image)?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(text(&output.stdout).lines().count(), 1, "{output:?}");
        let said = text(&output.stderr);
        assert_eq!(said.is_empty(), words.contains(&"-q"), "{said}");
        assert!(!said.contains('\r'), "no bar in a log: {said:?}");
    }
    Ok(())
}

#[test]
fn a_test_and_a_plan_change_nothing() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    let before = site.persistent()?;
    for words in [
        &["-T"][..],
        &["--json", "-T", "-n"],
        &["plan"],
        &["plan", "-n"],
    ] {
        let output = site.run_on(words, &image)?;
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        assert!(site.persistent()? == before, "{words:?} changed something");
    }
    Ok(())
}

#[test]
fn a_refusal_has_reason_both_values_and_a_hint_and_changes_nothing() -> Result {
    let site = Site::new()?;
    let before = site.persistent()?;
    type Change = fn(&mut Spec);
    let changes: [(&str, i32, &str, bool, Change); 3] = [
        ("board", 20, "wrong-board", false, |spec| {
            spec.boards = vec!["other,board".into()];
        }),
        ("signature", 11, "unknown-key", true, |_| {}),
        ("parts", 20, "wrong-parts", false, |spec| {
            spec.parts.truncate(1);
        }),
    ];
    for (what, code, reason, by_stranger, change) in changes {
        let key = if by_stranger {
            &site.stranger
        } else {
            &site.maker
        };
        let image = site.image(key, change)?;
        let output = site.run_on(&["--json", "--no-reboot"], &image)?;
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(code), "{what}: {answer}");
        assert_eq!(answer["ok"], false, "{what}: {answer}");
        assert_eq!(answer["exit"], code, "{what}: {answer}");
        let refusal = &answer["refusals"][0];
        assert_eq!(refusal["reason"], reason, "{what}: {answer}");
        for field in ["message", "found", "wanted", "hint"] {
            let filled = refusal[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(filled, "{what}: {field} of {refusal}");
        }
        assert!(site.persistent()? == before, "{what} changed something");

        let output = site.run_on(&["--no-reboot"], &image)?;
        assert_eq!(output.status.code(), Some(code), "{what}: {output:?}");
        let hint = refusal["hint"].as_str().unwrap_or_default();
        assert!(text(&output.stderr).contains(hint), "{what}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{what}");
    }
    Ok(())
}

#[test]
fn all_refusals_come_at_once() -> Result {
    let site = Site::new()?;
    let image = site.image(&site.maker, |spec| {
        spec.boards = vec!["other,board".into()];
        spec.parts.truncate(1);
    })?;
    let answer = document(&site.run_on(&["--json", "plan"], &image)?);
    let reasons: Vec<_> = answer["refusals"]
        .as_array()
        .ok_or("no refusals")?
        .iter()
        .map(|refusal| refusal["reason"].clone())
        .collect();
    assert_eq!(reasons, ["wrong-board", "wrong-parts"], "{answer}");
    Ok(())
}

#[test]
fn force_overrides_a_wrong_board_and_never_a_signature() -> Result {
    let site = Site::new()?;
    let image = site.image(&site.maker, |spec| {
        spec.boards = vec!["other,board".into()];
    })?;
    let output = site.run_on(&["-F", "-T"], &image)?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let image = site.image(&site.stranger, |_| {})?;
    let output = site.run_on(&["-F", "--no-reboot"], &image)?;
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    Ok(())
}

#[test]
fn what_is_no_image_or_is_cut_short_is_exit_code_10() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    let whole = fs::read(&image)?;
    for len in [0, 1, 511, 512, 2000, whole.len() / 2] {
        fs::write(&image, whole.get(..len).ok_or("a longer image")?)?;
        let output = site.run_on(&["--json", "--no-reboot"], &image)?;
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(10), "{len} bytes: {answer}");
        assert_eq!(site.status()?["next_boot"], "a", "{len} bytes");
    }
    Ok(())
}

#[test]
fn a_download_that_breaks_off_leaves_the_running_system_in_charge() -> Result {
    let site = Site::new()?;
    let image = fs::read(site.good_image()?)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://user:secret@{}/image.bin", listener.local_addr()?);
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", image.len());
        let half = image.get(..image.len() / 2).unwrap_or_default();
        for answer in [
            &[head.as_bytes(), half].concat()[..],
            b"HTTP/1.0 410 Gone\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 1024];
            let _ = stream.read(&mut request)?;
            stream.write_all(answer)?;
        }
        Ok(())
    });
    let output = site.run(&["--no-reboot", &url])?;
    server.join().expect("the server ran to its end")?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("the server says 410 Gone"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let status = site.status()?;
    assert_eq!(status["next_boot"], "a", "{status}");
    assert_eq!(status["other"]["condition"], "unbootable", "{status}");
    assert_eq!(site.status_file()?["exit"], 1);
    Ok(())
}

/// Starts an install from a pipe, feeds it half of the image, and returns when flash is written.
fn half_way(site: &Site) -> Result<(std::process::Child, BufReader<std::process::ChildStderr>)> {
    let image = fs::read(site.good_image()?)?;
    let mut child = site
        .command(&["--json", "--no-reboot", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("a pipe")?;
    stdin.write_all(image.get(..image.len() / 2).ok_or("an image")?)?;
    child.stdin = Some(stdin); // stays open: the program waits for the rest
    let mut stderr = BufReader::new(child.stderr.take().ok_or("a pipe")?);
    let mut line = String::new();
    while !line.contains(r#""event":"progress","phase":"flash""#) {
        line.clear();
        assert_ne!(stderr.read_line(&mut line)?, 0, "it ended early");
    }
    Ok((child, stderr))
}

#[test]
fn a_signal_ends_an_install_that_waits_for_bytes_and_the_target_cannot_boot() -> Result {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let site = Site::new()?;
        let (mut child, _stderr) = half_way(&site)?;
        let id = Pid::from_raw(child.id().try_into()?).ok_or("a process")?;
        kill_process(id, signal)?;
        let stdin = child.stdin.take(); // `wait_with_output` would close it, which ends the wait too
        let output = child.wait_with_output()?;
        drop(stdin);
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(1), "{signal:?}: {answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains("stopped"), "{signal:?}: {answer}");
        let status = site.status()?;
        assert_eq!(status["next_boot"], "a", "{signal:?}: {status}");
        assert_eq!(status["other"]["condition"], "unbootable", "{status}");
    }
    Ok(())
}

#[test]
fn a_second_run_is_busy_while_the_first_one_writes() -> Result {
    let site = Site::new()?;
    let (mut child, _stderr) = half_way(&site)?;
    for command in [&["--json", "-T"][..], &["--json", "--no-reboot"]] {
        let output = site.run_on(command, &site.path("image.bin"))?;
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(4), "{answer}");
    }
    child.kill()?;
    child.wait()?;
    let output = site.run_on(&["--no-reboot"], &site.path("image.bin"))?;
    assert_eq!(
        output.status.code(),
        Some(0),
        "the lock died with its holder"
    );
    Ok(())
}

#[test]
fn nobody_reading_is_no_panic() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    let image = image.to_str().ok_or("a name")?;
    for words in [
        &["--help"][..],
        &["status"],
        &["--json", "status"],
        &["doctor"],
        &["inspect", image],
    ] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = site.command(words).stdout(writer).output()?;
        assert!(output.status.code().is_some(), "{words:?}: {output:?}");
        let said = text(&output.stderr);
        assert!(!said.contains("panicked"), "{words:?}: {said}");
    }
    Ok(())
}

#[test]
fn an_install_goes_on_when_nobody_watches_its_progress() -> Result {
    let site = Site::new()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = site
        .command(&["--json", "--no-reboot"])
        .arg(site.good_image()?)
        .stderr(writer)
        .output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(site.status()?["next_boot"], "b");
    Ok(())
}

#[test]
fn while_a_slot_is_on_trial_nothing_is_installed_until_it_is_confirmed() -> Result {
    let site = Site::new()?;
    let image = site.good_image()?;
    let install = ["--json", "--no-reboot"];
    assert_eq!(site.run_on(&install, &image)?.status.code(), Some(0));
    site.router.off()?;
    let booted = site
        .router
        .boot(|| Ok(site.run(&["first-boot"])?.status.success()))?;
    assert_eq!(booted, Booted::Up(Slot::Second));
    let status = site.status()?;
    assert_eq!(status["standing"], "on-trial", "{status}");
    assert_eq!(status["running"]["version"], "2.0", "{status}");

    let output = site.run_on(&install, &image)?;
    let answer = document(&output);
    assert_eq!(output.status.code(), Some(31), "{answer}");
    assert_eq!(answer["refusals"][0]["reason"], "on-trial", "{answer}");

    let output = site.run(&["--json", "confirm"])?;
    assert_eq!(document(&output)["changed"], true, "{output:?}");
    assert_eq!(site.status()?["standing"], "good");
    let output = site.run(&["rollback", "--no-reboot"])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(site.status()?["next_boot"], "a");
    Ok(())
}

#[test]
fn a_backup_to_stdout_is_an_archive_and_nothing_else() -> Result {
    let site = Site::new()?;
    let output = site.run(&["-b", "-"])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut archive = tar::Archive::new(GzDecoder::new(output.stdout.as_slice()));
    let mut network = String::new();
    for member in archive.entries()? {
        let mut member = member?;
        if member.path()? == Path::new("etc/config/network") {
            member.read_to_string(&mut network)?;
        }
    }
    assert_eq!(network, "as edited\n");
    Ok(())
}

#[test]
fn what_was_backed_up_comes_back_and_what_an_archive_has_no_business_with_is_named() -> Result {
    let site = Site::new()?;
    let backup = site.path("backup.tar.gz");
    let backup = backup.to_str().ok_or("a name")?;
    let network = site.router.dir().join("etc/config/network");
    assert_eq!(site.run(&["-b", backup])?.status.code(), Some(0));
    fs::write(&network, "spoiled\n")?;
    let output = site.run(&["-r", backup])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read_to_string(&network)?, "as edited\n");

    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("etc/config/network", "from afar\n"),
        ("run/../../../outside", "x"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().ok_or("a GNU header")?.name[..name.len()]
            .copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        archive.append(&header, content.as_bytes())?;
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive.into_inner()?)?;
    fs::write(backup, gzip.finish()?)?;
    let output = site.run(&["-r", backup])?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("outside"), "{output:?}");
    assert_eq!(fs::read_to_string(&network)?, "from afar\n");
    assert!(!site.path("outside").exists() && !Path::new("/outside").exists());
    Ok(())
}

#[test]
fn without_a_board_everything_that_needs_one_is_exit_code_30() -> Result {
    let dir = tempfile::tempdir()?;
    let root = dir.path().to_str().ok_or("a name")?;
    for words in [&["status"][..], &["confirm"], &["rollback"], &["image.bin"]] {
        let output = command(&["--json", "--root", root]).args(words).output()?;
        let answer = document(&output);
        assert_eq!(output.status.code(), Some(30), "{words:?}: {answer}");
        assert_eq!(answer["ok"], false, "{words:?}");
    }
    assert_eq!(files::list(dir.path())?.len(), 0, "nothing was written");
    Ok(())
}

#[test]
fn a_board_file_that_is_not_accepted_is_named_with_its_line() -> Result {
    let site = Site::new()?;
    let board = site.path("board.toml");
    let text_of_it = sysupgrade_rs::board::VIRTUAL.replace("tries = 3", "tries = 30");
    fs::write(&board, text_of_it)?;
    let output = site.run(&["status", "--board", board.to_str().ok_or("a name")?])?;
    assert_eq!(output.status.code(), Some(30), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("board.toml:"), "{said}");
    assert!(said.contains("tries"), "{said}");
    Ok(())
}

/// A router of which the owner has changed what the image changes, too, and that image.
fn disputed() -> Result<(Site, PathBuf)> {
    let site = Site::new()?;
    let lease = |time: &str| format!("config dhcp 'lan'\n\toption leasetime '{time}'\n");
    let router = site.router.dir();
    let put = |root: &Path, path: &str, text: &str| -> Result {
        let path = root.join(path);
        fs::create_dir_all(path.parent().ok_or("a file in a tree")?)?;
        Ok(fs::write(path, text)?)
    };
    let new = site.path("defaults");
    for (path, default, yours, newer) in [
        (
            "etc/config/dhcp",
            lease("12h"),
            lease("24h"),
            Some(lease("6h")),
        ),
        (
            "etc/profile",
            "one\ntwo\n".into(),
            "one\nTWO\n".into(),
            Some("one\n2\n".into()),
        ),
        ("etc/config/network", "a\n".into(), "b\n".into(), None),
    ] {
        put(&router.join("rom"), path, &default)?;
        put(router, path, &yours)?;
        put(&new, path, newer.as_ref().unwrap_or(&default))?;
    }
    put(router, "etc/sysupgrade.conf", "/etc/profile\n")?;
    put(router, "etc/loose", "not on a list\n")?;
    let image = site.image(&site.maker, |spec| spec.defaults = Some(new))?;
    Ok((site, image))
}

#[test]
fn a_plan_shows_disputes_with_all_values_and_the_word_that_decides_them() -> Result {
    let (site, image) = disputed()?;
    let before = site.persistent()?;
    let output = site.run_on(&["-q", "plan"], &image)?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = text(&output.stdout);
    for expected in [
        "\n\nneeds your decision
  /etc/config/dhcp#lan.leasetime: you and the image changed it; yours stays
      default  12h
      yours    24h
      new      6h
      to take the new one: --resolve 'etc/config/dhcp#lan.leasetime=new'
  /etc/profile: you and the image changed it; yours stays
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
      to take the new one: --resolve 'etc/profile=new'
\n",
        "\nyours, as they are\n",
        "\nleft behind\n  /etc/loose\n  to keep one of them: sysupgrade-rs config keep PATH\n",
        "\nspace\n  ",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let answer = document(&site.run_on(&["--json", "plan"], &image)?);
    for (key, value) in [
        ("ok", Value::from(true)),
        ("exit", 3.into()),
        ("version", "2.0".into()),
        ("from", "1.0".into()),
        ("to", "2.0".into()),
        ("format", 1.into()),
        ("guess", false.into()),
    ] {
        assert_eq!(answer[key], value, "{key}: {answer}");
    }
    assert!(answer["space"].is_u64(), "{answer}");
    let entries = answer["entries"].as_array().ok_or("no entries")?;
    let dhcp = entries
        .iter()
        .find(|entry| entry["path"] == "etc/config/dhcp");
    assert_eq!(dhcp.ok_or("no dhcp")?["conflicts"][0]["new"], "6h");
    assert!(site.persistent()? == before, "a plan changed something");
    Ok(())
}

#[test]
fn a_decision_changes_the_plan_until_what_was_decided_about_changes() -> Result {
    let (site, image) = disputed()?;
    let decide = |place: &str| site.run_on(&["-q", "plan", "--resolve", place], &image);
    let output = decide("/etc/config/dhcp#lan.leasetime=new")?;
    assert_eq!(
        output.status.code(),
        Some(3),
        "the other one is open: {output:?}"
    );
    let output = decide("etc/profile=user")?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    let decided = "will merge\n  /etc/config/dhcp\n      as you decided: lan.leasetime: new\n  \
                   /etc/profile\n      as you decided: all of it: yours\n";
    assert!(said.contains(decided), "{said}");
    let file = site.router.dir().join("etc/sysupgrade/resolutions.json");
    let mode = fs::metadata(&file)?.permissions().mode() & 0o7777;
    let dir = fs::metadata(file.parent().ok_or("a directory")?)?;
    assert_eq!((mode, dir.permissions().mode() & 0o7777), (0o600, 0o700));

    fs::write(site.router.dir().join("etc/profile"), "one\nTwo\n")?;
    let output = site.run_on(&["-q", "plan"], &image)?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = text(&output.stdout);
    assert!(
        said.contains("etc/profile: a stored decision was not followed"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_decision_about_what_is_not_disputed_names_what_is_and_stores_nothing() -> Result {
    let (site, image) = disputed()?;
    let words = [
        "plan",
        "--resolve",
        "etc/profile=new",
        "--resolve",
        "etc/x=new",
    ];
    let output = site.run_on(&words, &image)?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    let places = "`etc/x` is not disputed; these are: etc/config/dhcp#lan.leasetime, etc/profile";
    assert!(said.contains(places), "{said}");
    assert!(!site.router.dir().join("etc/sysupgrade").exists());
    let words = ["plan", "--resolve", "etc/profile=new"];
    let output = site.run_on(&words, &site.good_image()?)?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    Ok(())
}

#[test]
fn a_dispute_that_the_policy_forbids_blocks_the_upgrade_until_it_is_decided() -> Result {
    let (site, image) = disputed()?;
    let policy = site.router.dir().join("etc/sysupgrade.policy");
    fs::write(policy, "/etc/profile conflict=fail\n")?;
    for words in [&["-q", "plan"][..], &["-q"]] {
        let output = site.run_on(words, &image)?;
        assert_eq!(output.status.code(), Some(22), "{words:?}: {output:?}");
    }
    let output = site.run_on(&["-q", "plan"], &image)?;
    let said = text(&output.stdout);
    for expected in [
        "  /etc/profile: you and the image changed it",
        "\n\nit will not be installed:\n  ",
        "the policy says `conflict=fail`",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let answer = document(&site.run_on(&["--json", "plan"], &image)?);
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(answer["refusals"][0]["reason"], "config-refused");
    let entries = answer["entries"].as_array().ok_or("no entries")?;
    assert!(entries.iter().any(|entry| entry["path"] == "etc/profile"));
    assert_eq!(answer["blocked"].as_array().map(Vec::len), Some(1));

    let words = ["-q", "plan", "--resolve", "etc/profile=user"];
    let output = site.run_on(&words, &image)?;
    assert_eq!(output.status.code(), Some(3), "dhcp is open: {output:?}");
    let output = site.run_on(&["-q"], &image)?;
    assert_eq!(output.status.code(), Some(3), "installed: {output:?}");
    Ok(())
}
