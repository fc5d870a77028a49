//! Every refusal and every failure, as it is told: `messages.txt` has each once, under a heading, with
//! the command line, the exit code, and what was printed. It is there to be read.
//!
//! A message that changes changes that file: the test shows the lines that differ, and with
//! `UPDATE_MESSAGES=1` it writes them.
//!
//! What cannot be provoked from outside, because a medium must fail or somebody be faster than we are,
//! is made by hand and told by the library; the words are the same.

mod board;
mod configuration;
mod every;
mod images;
mod lists;
mod machine;
mod stock;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sysupgrade_rs::board::VIRTUAL;
use sysupgrade_rs::report::{ExitCode, Refusal, describe};

use crate::pieces;
use crate::vectors;
use crate::world::router::{Booted, Router};
use crate::world::{System, World};

const GOLDEN: &str = "tests/openwrt/messages.txt";

/// Noon of the 15th of June 2026, when the recorded images are valid.
const NOON: i64 = 1_781_524_800;

/// What is told at the head of the file.
const HEAD: &str = "\
Every message of a refusal or a failure, as tests/openwrt/messages.rs provokes it.

  $    what was called; --root, --now and --progress none are left out
  =>   exit code
  !    standard error
  >    standard output
  ROOT the directory that stands for the root of the system

`UPDATE_MESSAGES=1 cargo test --test openwrt messages` writes this file.
";

/// A running router, and a directory with files beside it, in which commands are run.
pub(crate) struct Site {
    world: World,
    now: i64,
}

impl Site {
    /// A router that trusts the keys of both kinds of test images, and is the board of both. All that
    /// is in its image, so that nothing of it is worth a notice.
    fn new() -> Self {
        let mut system = System::new(1).with("etc/sysupgrade-rs/board.toml", &board_file());
        let maker = pieces::key(1).public();
        let keys = vectors::path("keydirs/keys");
        for key in fs::read_dir(keys).unwrap() {
            let key = key.unwrap();
            let name = key.file_name().into_string().unwrap();
            let text = fs::read_to_string(key.path()).unwrap();
            system = system.with(&format!("etc/opkg/keys/{name}"), &text);
        }
        let name = format!("etc/sysupgrade-rs/keys/{}", maker.id());
        let world = World::new(&system.with(&name, &maker.to_text("maker"))).unwrap();
        let booted = world.router.boot(|| Ok(true)).unwrap();
        assert!(matches!(booted, Booted::Up(_)));
        let site = Self { world, now: NOON };
        site.write("tmp/sysinfo/board_name", "acme,router-a1\n");
        site
    }

    fn router(&self) -> &Router {
        &self.world.router
    }

    fn root(&self) -> &Path {
        self.world.router.dir()
    }

    /// Writes a file of the system.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        put(&self.root().join(path), content.as_ref());
    }

    fn remove(&self, path: &str) {
        let path = self.root().join(path);
        sysupgrade_rs::files::remove_tree(&path).unwrap();
    }

    /// Writes a file beside the system.
    fn lay(&self, name: &str, content: impl AsRef<[u8]>) {
        put(&self.world.dir().join(name), content.as_ref());
    }

    /// Lays one of the recorded files beside the system.
    fn lay_recorded(&self, path: &str) {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        self.lay(name, fs::read(vectors::path(path)).expect(path));
    }

    /// Puts other words into the board file.
    fn change_board(&self, from: &str, to: &str) {
        let path = self.root().join("etc/sysupgrade-rs/board.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Lets images pass that nobody has signed.
    fn allow_unsigned(&self) {
        self.change_board("threshold = 1 ", "unsigned = \"allow\"\nthreshold = 1 ");
    }
}

/// The board file of the router.
fn board_file() -> String {
    VIRTUAL
        .replace(
            r#"["virtual,router"]"#,
            r#"["acme,router-1", "virtual,router"]"#,
        )
        .replace(
            r#"["/etc/sysupgrade-rs/keys"]"#,
            r#"["/etc/sysupgrade-rs/keys", "/etc/opkg/keys"]"#,
        )
}

fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The file that is being written.
#[derive(Default)]
pub(crate) struct Book {
    text: String,
    headings: BTreeSet<String>,
}

impl Book {
    fn chapter(&mut self, title: &str) {
        let line = "=".repeat(title.len());
        write!(self.text, "\n\n{title}\n{line}\n").unwrap();
    }

    fn heading(&mut self, heading: &str) {
        assert!(self.headings.insert(heading.to_owned()), "twice: {heading}");
        write!(self.text, "\n{heading}\n").unwrap();
    }

    /// A command on a new site, of which something was changed before.
    fn told(&mut self, heading: &str, line: &str, prepare: impl FnOnce(&mut Site)) {
        let mut site = Site::new();
        prepare(&mut site);
        self.heading(heading);
        self.run(&site, line);
    }

    fn run(&mut self, site: &Site, line: &str) {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_sysupgrade-rs"))
            .arg0(program)
            .arg("--root")
            .arg(site.root())
            .args(["--now", &site.now.to_string(), "--progress", "none"])
            .args(words)
            .current_dir(site.world.dir())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let code = output.status.code().expect("an exit code");
        writeln!(self.text, "  $ {line}\n  => {code}").unwrap();
        for (mark, bytes) in [('!', &output.stderr), ('>', &output.stdout)] {
            let text = std::str::from_utf8(bytes).expect("what is printed is text");
            for line in stable(site, text).lines() {
                writeln!(self.text, "  {mark} {line}").unwrap();
            }
        }
    }

    /// A refusal that was made by hand.
    fn by_hand(&mut self, heading: &str, refusal: &Refusal) {
        let code = refusal.reason.exit_code();
        self.hand_made(heading, code, &refusal.message, Some(&refusal.hint));
    }

    /// An error that is no refusal, likewise.
    fn error_by_hand(
        &mut self,
        heading: &str,
        code: ExitCode,
        error: &dyn Error,
        hint: Option<&str>,
    ) {
        self.hand_made(heading, code, &describe(error), hint);
    }

    fn hand_made(&mut self, heading: &str, code: ExitCode, message: &str, hint: Option<&str>) {
        self.heading(heading);
        writeln!(self.text, "  (made by hand)\n  => {}", code as u8).unwrap();
        writeln!(self.text, "  ! sysupgrade-rs: {message}").unwrap();
        if let Some(hint) = hint {
            writeln!(self.text, "  !   {hint}").unwrap();
        }
    }
}

/// Without what is another one at each run.
fn stable(site: &Site, text: &str) -> String {
    let text = text.replace(&site.root().display().to_string(), "ROOT");
    let mut out = String::new();
    for line in text.lines() {
        // How much room is free where the tests are run.
        let words: Vec<&str> = line.split(' ').collect();
        let line = match words
            .iter()
            .position(|word| *word == "free" || *word == "free;")
        {
            Some(at) if at >= 2 && words[at - 2].parse::<u64>().is_ok() => {
                let mut words = words;
                words[at - 2] = "N";
                words.join(" ")
            }
            _ => line.to_owned(),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

fn book() -> Book {
    let mut book = Book {
        text: HEAD.to_owned(),
        ..Book::default()
    };
    images::tell(&mut book);
    stock::tell(&mut book);
    configuration::tell(&mut book);
    lists::tell(&mut book);
    board::tell(&mut book);
    machine::tell(&mut book);
    book
}

#[test]
fn every_message_is_told_as_it_was_read_and_agreed_on() {
    let book = book();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if std::env::var_os("UPDATE_MESSAGES").is_some() {
        fs::write(path, &book.text).unwrap();
        return;
    }
    let agreed = fs::read_to_string(path).unwrap_or_default();
    let difference = diffy::create_patch(&agreed, &book.text);
    assert!(
        agreed == book.text,
        "{GOLDEN} is not what is told now; if it should be, read it and write it with \
         UPDATE_MESSAGES=1:\n{difference}"
    );
}

#[test]
fn every_kind_of_error_is_told_under_its_heading() {
    let agreed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN)).unwrap();
    let told: BTreeSet<&str> = agreed
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect();
    let missing: Vec<_> = every::headings()
        .into_iter()
        .filter(|(_, heading)| !told.contains(heading))
        .collect();
    assert!(missing.is_empty(), "not told: {missing:#?}");
}

#[test]
fn no_message_shows_how_the_program_is_made_or_says_a_thing_twice() {
    let agreed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN)).unwrap();
    for line in agreed.lines().filter(|line| line.starts_with("  ! ")) {
        for sign in ["Some(", "None", "Err(", " { ", "Error", "\u{1b}", "::"] {
            assert!(!line.contains(sign), "{sign}: {line}");
        }
        let said: Vec<&str> = line.split(": ").collect();
        let distinct: BTreeSet<&&str> = said.iter().collect();
        assert_eq!(said.len(), distinct.len(), "twice: {line}");
    }
}
