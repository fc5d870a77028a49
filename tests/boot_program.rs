//! A boot state that a program of the board's keeps: good programs, the example of `board/program` in
//! the shells that routers have, and programs that lie, flood, hang or are none.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sysupgrade_rs::boot::program::{document, parse};
use sysupgrade_rs::boot::{BootError, Bootloader, Program};
use sysupgrade_rs::slots::{BootState, Condition, MAX_TRIES, Slot};
use tempfile::TempDir;

const ON_TRIAL: BootState = BootState {
    primary: Slot::Second,
    conditions: [Condition::Good, Condition::Trial(3)],
};

/// The state of a factory, and a variable of somebody else's before and after ours.
const FACTORY: &str = "first=1\nprimary=a\nleft_a=9\nleft_b=0\nlast=left_a=3\n";

const LOADS: &str = r#"echo '{"primary":"a","slots":{"a":"good","b":"unbootable"}}'"#;

fn names() -> [String; 2] {
    ["a".to_owned(), "b".to_owned()]
}

/// Both slots in every condition, with the fewest and the most tries.
fn states() -> Vec<BootState> {
    let conditions = [
        Condition::Good,
        Condition::Unbootable,
        Condition::Trial(1),
        Condition::Trial(MAX_TRIES),
    ];
    let mut states = Vec::new();
    for primary in Slot::ALL {
        for a in &conditions {
            states.extend(conditions.iter().map(|b| BootState {
                primary,
                conditions: [*a, *b],
            }));
        }
    }
    states
}

/// A machine in a directory, with one program.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new());
        let dir = dir.expect("a temporary directory");
        fs::write(dir.path().join("state"), FACTORY).expect("written");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("state")).expect("readable")
    }

    /// A program of these lines of shell.
    fn program(&self, lines: &str) -> Program {
        let path = self.path("program");
        programs::write(&path, &format!("#!/bin/sh\n{lines}\n")).expect("written");
        self.with(path, &[])
    }

    fn with(&self, path: PathBuf, arguments: &[&str]) -> Program {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        Program::new(self.dir.path(), path, arguments, names())
    }

    /// The example, in a shell.
    fn example(&self, shell: &[&str]) -> Program {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/board/program/boot-state");
        let mut words: Vec<&str> = shell.to_vec();
        words.extend([example, "/state"]);
        self.with(PathBuf::from(words[0]), &words[1..])
    }

    /// What is said of a program that is refused, without its path.
    fn problem<T: std::fmt::Debug>(&self, result: Result<T, BootError>) -> String {
        let error = result.expect_err("this is to be refused").to_string();
        error.replace(&format!("{}: ", self.path("program").display()), "")
    }
}

/// Where a program is.
fn find(name: &str) -> PathBuf {
    let output = Command::new("sh")
        .args(["-c", &format!("command -v {name}")])
        .output();
    let output = output.expect("there is a shell");
    assert!(output.status.success(), "{name} is needed for this test");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

#[test]
fn the_example_keeps_every_state_and_what_others_wrote_in_every_shell_of_routers() {
    let [dash, busybox] = ["dash", "busybox"].map(find);
    let [dash, busybox] = [&dash, &busybox].map(|path| path.to_str().expect("a plain path"));
    for (shell, kept) in [
        (&[dash][..], states()),
        (&[busybox, "ash"], vec![ON_TRIAL, BootState::FACTORY]),
    ] {
        let world = World::new();
        let mut program = world.example(shell);
        assert_eq!(program.load().expect("readable"), BootState::FACTORY);
        for state in kept {
            program.store(&state).expect("stored");
            assert_eq!(program.load().expect("readable"), state);
        }
        program.store(&ON_TRIAL).expect("stored");
        let expected = "primary=b\nleft_a=9\nleft_b=3\nfirst=1\nlast=left_a=3\n";
        assert_eq!(world.text(), expected);
        assert_eq!(program.flaws().expect("not known"), [""; 0]);
    }
}

#[test]
fn the_example_refuses_what_is_damaged_until_it_is_repaired() {
    for damage in [
        "left_a=9\nleft_b=0\n",
        "primary=a\nprimary=b\nleft_a=9\nleft_b=0\n",
        "primary=c\nleft_a=9\nleft_b=0\n",
        "primary=a\nleft_a=8\nleft_b=0\n",
        "primary=a\nleft_a=\nleft_b=0\n",
        "",
    ] {
        let world = World::new();
        fs::write(world.path("state"), damage).expect("written");
        let mut program = world.example(&["/bin/sh"]);
        for error in [
            program.load().expect_err(damage),
            program.store(&ON_TRIAL).expect_err(damage),
            program.flaws().expect_err(damage),
        ] {
            assert!(matches!(error, BootError::Damaged { .. }), "{error}");
        }
        assert_eq!(world.text(), damage);
        let done = program.repair(&ON_TRIAL).expect("repaired");
        assert_eq!(done, ["it is written anew"]);
        assert_eq!(program.load().expect("whole"), ON_TRIAL);
    }
}

#[test]
fn a_document_is_read_strictly_and_all_states_have_one() {
    for state in states() {
        let text = document(&state, &names());
        assert_eq!(parse(text.as_bytes(), &names()), Ok(state), "{text}");
    }
    let text = document(&ON_TRIAL, &names());
    assert_eq!(
        text,
        "{\"primary\":\"b\",\"slots\":{\"a\":\"good\",\"b\":{\"trial\":3}}}\n"
    );
    let spaced =
        " {\n\"slots\" : { \"b\": {\"trial\": 3}, \"a\": \"good\" },\t\"primary\": \"b\" }\n\n";
    assert_eq!(parse(spaced.as_bytes(), &names()), Ok(ON_TRIAL));
    for (wrong, expected) in [
        ("", "this is no boot state: EOF"),
        ("[]", "this is no boot state: invalid"),
        ("{}", "this is no boot state: missing field"),
        (
            r#"{"primary":"c","slots":{"a":"good","b":"good"}}"#,
            "there is no slot `c`",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good"}}"#,
            "nothing is said of slot `b`",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":"good","c":"good"}}"#,
            "there is no slot `c`",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","a":"good","b":"good"}}"#,
            "this is no boot state: slot `a` stands there twice",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":{"trial":0}}}"#,
            "slot `b` has 0 tries, not 1 to 7",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":{"trial":8}}}"#,
            "slot `b` has 8 tries, not 1 to 7",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":{"trial":300}}}"#,
            "this is no boot state: invalid value",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":"bad"}}"#,
            "this is no boot state: unknown variant",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":"good"},"x":1}"#,
            "this is no boot state: unknown field",
        ),
        (
            r#"{"primary":"a","slots":{"a":"good","b":"good"}} x"#,
            "this is no boot state: trailing characters",
        ),
    ] {
        let problem = parse(wrong.as_bytes(), &names()).expect_err(wrong);
        assert!(problem.starts_with(expected), "{wrong}: {problem}");
    }
    let hostile = r#"{"primary":"\u001b[2J","slots":{"a":"good","b":"good"}}"#;
    let problem = parse(hostile.as_bytes(), &names()).expect_err(hostile);
    assert_eq!(problem, "there is no slot `\\u{1b}[2J`");
}

#[test]
fn a_program_gets_its_arguments_the_state_and_a_clean_environment_and_no_shell_between() {
    let world = World::new();
    let mut program = world.program(&format!(
        r#"dir=${{0%/*}}
           [ "$1" = load ] && {LOADS} && exit
           for word; do printf '<%s>' "$word"; done >"$dir/argv"
           cat >"$dir/input"
           env | grep -Ev '^(PWD|OLDPWD|SHLVL|_)=' | sort >"$dir/env"
           pwd >"$dir/pwd""#
    ));
    program.store(&BootState::FACTORY).expect("stored");
    let read = |name: &str| fs::read_to_string(world.path(name)).expect("written");
    assert_eq!(read("argv"), "<store>");
    assert_eq!(read("input"), document(&BootState::FACTORY, &names()));
    assert_eq!(read("pwd"), "/\n");
    let path = std::env::var("PATH").expect("a PATH");
    let root = world.dir.path().display();
    assert_eq!(
        read("env"),
        format!("PATH={path}\nSYSUPGRADE_ROOT={root}\n")
    );
    let argument = "$(reboot); `reboot` *";
    let mut program = world.with(world.path("program"), &[argument]);
    // With an argument it never hears `load` in the first place.
    program.store(&BootState::FACTORY).expect_err("not loaded");
    assert_eq!(read("argv"), format!("<{argument}><load>"));
}

#[test]
fn the_path_of_a_program_and_of_the_root_may_begin_where_we_are() {
    let world = World::new();
    world.program(&format!("echo \"$SYSUPGRADE_ROOT\" >&2\n{LOADS}\nexit 1"));
    let up = "../".repeat(std::env::current_dir().expect("there").components().count() - 1);
    let root = PathBuf::from(
        up + world
            .dir
            .path()
            .to_str()
            .expect("plain")
            .trim_start_matches('/'),
    );
    let mut program = Program::new(&root, root.join("program"), Vec::new(), names());
    let problem = program.load().expect_err("it fails").to_string();
    assert!(problem.contains("`load`: /"), "{problem}");
}

#[test]
fn exit_codes_say_what_is_wrong_in_the_words_of_the_program() {
    let world = World::new();
    for (lines, expected) in [
        ("exit 1", "`load`: exit status 1"),
        (
            "echo >&2; echo ' no\tflash ' >&2; echo more >&2; exit 1",
            "`load`: no\\u{9}flash",
        ),
        (
            "printf '\\033[31mred' >&2; exit 3",
            "`load`: \\u{1b}[31mred",
        ),
        ("echo 'the copies differ' >&2; exit 30", "the copies differ"),
        ("exit 2", "`load`: exit status 2"),
        ("kill -9 $$", "`load`: killed by signal 9"),
        (
            "true",
            "`load`: this is no boot state: EOF while parsing a value at line 1 column 0",
        ),
        (
            "echo good",
            "`load`: this is no boot state: expected value at line 1 column 1",
        ),
        (
            "head -c 70000 /dev/zero",
            "`load`: prints more than 65536 bytes",
        ),
        (
            "yes | head -c 9000000",
            "`load`: prints more than 65536 bytes",
        ),
        ("yes x | head -c 9000000 >&2; exit 1", "`load`: x"),
    ] {
        let mut program = world.program(lines);
        let result = program.load();
        let is_damaged = matches!(result, Err(BootError::Damaged { .. }));
        assert_eq!(is_damaged, lines.ends_with("exit 30"), "{lines}");
        assert_eq!(world.problem(result), expected, "{lines}");
    }
    let long = world.problem(
        world
            .program("yes | head -c 900 | tr '\\n' y >&2; exit 1")
            .load(),
    );
    assert!(long.len() < 250, "{long}");
    let mut none = world.with(world.path("nothing"), &[]);
    let problem = none.load().expect_err("there is none").to_string();
    assert!(
        problem.contains("`load`: cannot be run: No such file"),
        "{problem}"
    );
}

#[test]
fn a_program_that_says_done_is_not_believed() {
    let world = World::new();
    let mut program = world.program(LOADS);
    program.store(&BootState::FACTORY).expect("it is there");
    let expected = "`store`: says that it is done, and `load` tells another state";
    assert_eq!(world.problem(program.store(&ON_TRIAL)), expected);
    let repair = format!("[ $1 = repair ] && echo '[]' || {LOADS}");
    let expected = expected.replace("store", "repair");
    assert_eq!(
        world.problem(world.program(&repair).repair(&ON_TRIAL)),
        expected
    );
}

#[test]
fn flaws_and_repairs_are_told_printable_where_a_program_knows_them() {
    let world = World::new();
    let lines = |of_flaws: &str| format!("[ $1 = load ] && {LOADS} && exit\n{of_flaws}");
    for (of_flaws, expected) in [
        ("exit 2", vec![]),
        ("echo '[]'", vec![]),
        (
            r#"echo '["one copy is torn", "\u001b"]'"#,
            vec!["one copy is torn", "\\u{1b}"],
        ),
    ] {
        let mut program = world.program(&lines(of_flaws));
        assert_eq!(program.flaws().expect(of_flaws), expected);
        let repaired = program.repair(&BootState::FACTORY);
        if of_flaws == "exit 2" {
            // Then it is a plain store, which this one does not know either.
            assert_eq!(world.problem(repaired), "`store`: exit status 2");
        } else {
            assert_eq!(repaired.expect(of_flaws), expected);
        }
    }
    for of_flaws in ["true", "echo '{}'", "echo '[1]'", "exit 1"] {
        let problem = world.problem(world.program(&lines(of_flaws)).flaws());
        assert!(problem.starts_with("`flaws`: "), "{problem}");
    }
}

#[test]
fn what_a_program_has_left_behind_is_killed_with_it() {
    let world = World::new();
    let pid = world.path("pid");
    let mut program = world.program(&format!("sleep 1000 & echo $! >{}\n{LOADS}", pid.display()));
    program.load().expect("the program itself has ended");
    let pid = fs::read_to_string(pid).expect("written");
    let proc = Path::new("/proc").join(pid.trim());
    let began = Instant::now();
    loop {
        // Killed, and perhaps not yet reaped.
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{stat}");
        std::thread::yield_now();
    }
}
