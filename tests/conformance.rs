//! `scripts/conformance` accepts the example of `board/program` and boot loaders that we know, and
//! finds planted bugs, each by the name of the promise that it breaks.

#[path = "world/gpt.rs"]
mod gpt;
mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sysupgrade_rs::boot::program::document;
use sysupgrade_rs::boot::{Bootloader, GptAttributes};
use sysupgrade_rs::slots::{BootState, Condition, MAX_TRIES, Slot, Standing};
use tempfile::TempDir;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

const FACTORY: &str = "primary=a\nleft_a=9\nleft_b=0\nothers=1\n";

const BOOT: &str = "[boot]\nkind = \"program\" # ours\nprogram = [\n    \"/libexec/boot-state\",\n    \"/it's a state\", # its file\n]\ntries = 2\n";

/// The promises, as the script names them.
const PROMISES: [&str; 8] = [
    "each of the 10 states that there can be is loaded as it was stored",
    "storing what is there changes nothing",
    "a verb that is not known is refused with exit code 2",
    "nonsense is refused with exit code 2, and nothing is written",
    "a store that fails says so, and leaves the old state",
    "a store that is killed leaves the old state or the new one",
    "flaws is a list, or not known",
    "the state found at the begin is put back",
];

fn names() -> [String; 2] {
    ["a".to_owned(), "b".to_owned()]
}

/// A machine in a directory.
struct World {
    dir: TempDir,
}

impl World {
    /// With the example of `board/program`, changed.
    fn new(change: impl Fn(&str) -> String) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new());
        let dir = dir.expect("a temporary directory");
        let world = Self { dir };
        let example = Path::new(HERE).join("board/program/boot-state");
        let example = fs::read_to_string(example).expect("readable");
        let program = world.path("libexec/boot-state");
        fs::create_dir(world.path("libexec")).expect("made");
        programs::write(&program, &change(&example)).expect("written");
        fs::write(world.state(), FACTORY).expect("written");
        let slots = "[[slot]]\nname = \"a\"\n[[slot]]\nname = \"b\"\n";
        fs::write(world.path("board.toml"), format!("{BOOT}{slots}")).expect("written");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("it's a state")
    }

    /// The script in a shell, with these arguments after the board file and the root.
    fn command(&self, shell: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(shell[0]);
        command
            .args(&shell[1..])
            .arg(Path::new(HERE).join("scripts/conformance"))
            .arg(self.path("board.toml"))
            .arg("--root")
            .arg(self.dir.path())
            .args(["--seed", "7"])
            .args(more);
        command
    }

    fn run(&self, shell: &[&str], more: &[&str]) -> Output {
        let output = self.command(shell, more).output();
        output.unwrap_or_else(|error| panic!("{shell:?} is needed for this test: {error}"))
    }

    fn stored(&self) -> String {
        fs::read_to_string(self.state()).expect("readable")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The promises that are broken, as the script told.
fn broken(output: &Output) -> Vec<String> {
    let told = text(&output.stdout);
    let failed = told.lines().filter_map(|line| line.strip_prefix("FAILED"));
    failed.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn the_example_keeps_all_promises_in_every_shell_and_the_state_is_as_before() {
    for shell in [&["dash"][..], &["busybox", "ash"]] {
        let world = World::new(str::to_owned);
        let foreign = format!("grep others \"{}\"", world.state().display());
        let output = world.run(shell, &["--kills", "20", "--foreign", &foreign]);
        let told = text(&output.stdout);
        assert!(output.status.success(), "{told}{}", text(&output.stderr));
        for promise in PROMISES.iter().chain(&["what is not ours survives"]) {
            assert!(
                told.contains(&format!("ok      {promise}")),
                "{promise}:\n{told}"
            );
        }
        assert!(told.contains("--seed 7"), "{told}");
        assert!(told.contains("a store takes "), "{told}");
        assert_eq!(world.stored(), FACTORY);
    }
}

#[test]
fn a_planted_bug_is_found_by_the_name_of_its_promise() {
    let [all, same, verb, nonsense, fails, killed, flaws, _] = PROMISES;
    let replace = |from: &'static str, to: &'static str| {
        move |example: &str| {
            assert!(example.contains(from), "the example has no `{from}`");
            example.replacen(from, to, 1)
        }
    };
    // What is changed in the example; the promise that is broken first, and its bug.
    for (change, promise, bug) in [
        (
            replace("*) echo \"$1\" | tr -cd 1-7 ;;", "*) echo 2 ;;"),
            all,
            "forgets tries",
        ),
        (
            replace("lines \"$1\"", "lines a"),
            all,
            "forgets the primary",
        ),
        (
            // The first half, then the second: as a slow flash does it.
            replace(
                "sync \"$file.new\" && mv \"$file.new\" \"$file\"",
                "head -n 1 \"$file.new\" >\"$file\" && sleep 0.3 && tail -n +2 \"$file.new\" >>\"$file\"",
            ),
            killed,
            "writes in place",
        ),
        (
            replace(
                "[ $# = 3 ] || refuse 2 \"this is no boot state\"",
                "[ $# = 3 ] || set -- a '\"good\"' '\"good\"'",
            ),
            nonsense,
            "accepts nonsense",
        ),
        (
            replace("[ $# = 3 ] || refuse 2", "[ $# = 3 ] || refuse 1"),
            nonsense,
            "another exit code",
        ),
        (
            replace("[1-7][}]'", "[0-9]*[}]'"),
            nonsense,
            "accepts too many tries",
        ),
        (
            replace("*) refuse 2 \"there is no verb $2\" ;;", "*) load ;;"),
            verb,
            "knows any verb",
        ),
        (
            replace("|| refuse 1 \"$file.new cannot be written\"", "|| exit 0"),
            fails,
            "exit 0 on failure",
        ),
        (
            replace("    store)\n", "    flaws) echo none ;;\n    store)\n"),
            flaws,
            "flaws in words",
        ),
        (
            replace(
                "    put || refuse",
                "    cmp -s \"$file\" \"$file.new\" && refuse 1 same\n    put || refuse",
            ),
            same,
            "cannot do it twice",
        ),
    ] {
        let world = World::new(change);
        let kills = if promise == killed { "40" } else { "0" };
        let output = world.run(&["dash"], &["--kills", kills]);
        let broken = broken(&output);
        assert_eq!(output.status.code(), Some(1), "{bug}");
        let first = broken.first().map_or("", String::as_str);
        assert!(
            first.starts_with(promise),
            "{bug}: {broken:?}\n{}",
            text(&output.stdout)
        );
    }
}

#[test]
fn every_state_that_transitions_lead_to_is_tried() {
    // By the transitions themselves, from a router that leaves the factory.
    let mut seen = BTreeSet::new();
    let mut waiting = vec![(BootState::FACTORY, Slot::First)];
    let mut known = Vec::new();
    while let Some((state, running)) = waiting.pop() {
        if known.contains(&(state, running)) {
            continue;
        }
        known.push((state, running));
        assert_ne!(state.standing(running), Standing::Contradiction);
        seen.insert(document(&state, &names()));
        let (slot, after) = state.boot();
        waiting.push((after, slot));
        waiting.extend(
            [
                state.begin_install(running),
                state.activate(running, MAX_TRIES),
                state.confirm(running),
                state.go_back(running),
            ]
            .into_iter()
            .flatten()
            .map(|state| (state, running)),
        );
    }
    let world = World::new(|example| {
        let log = "    input=$(cat)\n    echo \"$input\" >>\"$directory/log\"\n";
        example.replacen("    input=$(cat)\n", log, 1)
    });
    let board = world.path("board.toml");
    let text = fs::read_to_string(&board).expect("readable");
    let text = text.replace("tries = 2", &format!("tries = {MAX_TRIES}"));
    fs::write(&board, text).expect("written");
    assert!(world.run(&["dash"], &["--kills", "0"]).status.success());
    let tried = fs::read_to_string(world.path("log")).expect("there is one");
    for state in seen {
        let state = state.trim_end();
        assert!(
            tried.lines().any(|line| line == state),
            "{state} was not tried"
        );
    }
}

#[test]
fn a_machine_on_trial_and_one_that_was_not_asked_for_are_left_alone() {
    let world = World::new(str::to_owned);
    for (state, expected) in [
        (
            "primary=b\nleft_a=9\nleft_b=3\n",
            "the primary slot is not good",
        ),
        (
            "primary=b\nleft_a=9\nleft_b=0\n",
            "the primary slot is not good",
        ),
    ] {
        fs::write(world.state(), state).expect("written");
        let output = world.run(&["dash"], &[]);
        assert_eq!(output.status.code(), Some(31));
        assert!(text(&output.stderr).contains(expected), "{output:?}");
        assert_eq!(world.stored(), state);
    }
    fs::write(world.state(), "primary=c\n").expect("written");
    let output = world.run(&["dash"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("load: exit code 30"),
        "{output:?}"
    );
    let script = Path::new(HERE).join("scripts/conformance");
    let output = Command::new(script).arg(world.path("board.toml")).output();
    let output = output.expect("it is a program");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("say --yes"), "{output:?}");
}

#[test]
fn an_interrupted_run_puts_back_what_it_found() {
    let world = World::new(str::to_owned);
    let mut child = world
        .command(&["dash"], &["--kills", "100000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let nonsense = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(PROMISES[4])));
    assert!(nonsense.is_some(), "it has come as far as the kills");
    let pid = child.id().to_string();
    // Not INT: what is started in the background of a script ignores it, and so would this shell.
    let told = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(told.expect("there is a kill").success());
    lines.for_each(drop);
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(143));
    assert_eq!(world.stored(), FACTORY);
}

/// The program that speaks for all kinds of boot loaders.
fn boot_state() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a place");
    let target = test.ancestors().nth(2).expect("target/debug");
    target.join("examples/boot-state")
}

#[test]
fn other_boot_loaders_and_our_own_side_of_the_contract_are_tried_through_the_same_door() {
    // Attribute bits of a GPT; and a program, through the product's own backend.
    let world = World::new(str::to_owned);
    let disk = [("KERN-A", 1_u64 << 48 | 1 << 56), ("KERN-B", 0)];
    let disk = disk.map(|(name, bits)| (name, gpt::KERNEL, bits));
    let disk = gpt::disk(512, &disk);
    fs::write(world.path("disk"), &disk).expect("written");
    let virtual_board = sysupgrade_rs::board::VIRTUAL;
    let grub =
        "kind = \"grub-env\"\nstore = [{ path = \"/flash/env\" }]\nlayout = \"order\"\ntries = 3";
    let gpt = "kind = \"gpt-attributes\"\nstore = [{ path = \"/disk\" }]\npartitions = [\"KERN-A\", \"KERN-B\"]\ntries = 2";
    let program = BOOT.strip_prefix("[boot]\n").expect("it begins so");
    // The first builds it.
    let with = boot_state();
    let with = with.to_str().expect("a plain path");
    // Whoever kills us does not kill a program that we have started: it goes on for a moment.
    for (boot, more) in [
        (gpt, &["--kills", "10"][..]),
        (program, &["--kills", "0", "--with", with]),
    ] {
        let board = virtual_board.replace(grub, boot.trim_end());
        assert_ne!(board, virtual_board);
        fs::write(world.path("board.toml"), board).expect("written");
        let output = world.run(&["dash"], more);
        let told = text(&output.stdout);
        assert!(output.status.success(), "{told}{}", text(&output.stderr));
        assert!(
            PROMISES.iter().all(|promise| told.contains(promise)),
            "{told}"
        );
    }
    let mut boot = GptAttributes::new(world.path("disk"), ["KERN-A".into(), "KERN-B".into()]);
    let state = boot.load().expect("whole");
    assert_eq!(state.conditions, [Condition::Good, Condition::Unbootable]);
    assert_eq!(boot.flaws().expect("whole"), [""; 0]);
    assert_eq!(world.stored(), FACTORY);
}
