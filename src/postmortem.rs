//! What a system that died has left behind: the last words of its kernel, and a word of the watchdog.
//!
//! ```text
//! /sys/fs/pstore/dmesg-*                        the end of the kernel's log at a panic or an oops, a file
//!                                               each, on machines whose memory, flash or firmware keeps it
//! /sys/class/watchdog/*/bootstatus              bit 0x20: this watchdog reset the machine
//! ```
//!
//! pstore keeps its files until somebody removes them, and nobody is sure of the time on a router. So
//! an install notes which there are ([`dumps`]), and those are not blamed on the system that it brings.
//! Nothing is removed here: others collect them, too.
//!
//! All of it is a hint at the reason of a fall back and no more; what cannot be read is not there.

use std::path::Path;

use crate::digest::Digest;
use crate::files::{self, below};
use crate::report::printable;
use crate::sys::WDIOF_CARDRESET;

const PSTORE: &str = "/sys/fs/pstore";

const WATCHDOGS: &str = "/sys/class/watchdog";

/// Kernels keep 64 KiB of such a dump or less; this is generous.
const MAX_DUMP: u64 = 1 << 20;

/// So many dumps are looked at.
const MAX_DUMPS: usize = 32;

/// What the lines begin with by which kernels end, the clearest first.
const LAST_WORDS: [&str; 4] = [
    "Kernel panic - not syncing",
    "Internal error: Oops",
    "Oops",
    "BUG: ",
];

/// A dump of a kernel's log.
struct Dump {
    /// The begin of its digest.
    id: String,
    text: String,
}

fn read(root: &Path) -> Vec<Dump> {
    let dir = below(root, Path::new(PSTORE));
    let names = files::list(&dir).unwrap_or_default();
    let names = names.iter().filter_map(|name| name.to_str());
    let dumps = names.filter(|name| name.starts_with("dmesg-"));
    dumps
        .take(MAX_DUMPS)
        .filter_map(|name| {
            let bytes = files::read(&dir.join(name), MAX_DUMP).ok()?;
            let digest = Digest::of(&bytes).to_string();
            Some(Dump {
                id: digest.get(..16)?.to_owned(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            })
        })
        .collect()
}

/// Which dumps there are.
#[must_use]
pub fn dumps(root: &Path) -> Vec<String> {
    read(root).into_iter().map(|dump| dump.id).collect()
}

/// The line by which the kernel ended that left a dump which is not one of these, in printable form.
#[must_use]
pub fn last_words(root: &Path, known: &[String]) -> Option<String> {
    let dumps = read(root);
    let new = || dumps.iter().filter(|dump| !known.contains(&dump.id));
    let words = LAST_WORDS.iter();
    let mut lines = words.flat_map(|words| new().filter_map(|dump| line_with(&dump.text, words)));
    lines.next().map(printable)
}

/// The first message of a kernel's log that begins with these words.
fn line_with<'t>(text: &'t str, words: &str) -> Option<&'t str> {
    let messages = text.lines().filter_map(message);
    messages
        .into_iter()
        .find(|message| message.starts_with(words))
}

/// What follows `<0>[   12.345678] ` or `[   12.345678][    T1] `. The heading that pstore puts over a
/// dump (`Oops#1 Part1`) has none of that.
fn message(line: &str) -> Option<&str> {
    let line = match line.strip_prefix('<') {
        Some(level) => level.split_once('>')?.1,
        None => line,
    };
    let mut rest = line.strip_prefix('[')?.split_once(']')?.1;
    while let Some(more) = rest.strip_prefix('[') {
        rest = more.split_once(']')?.1;
    }
    Some(rest.trim())
}

/// True if a watchdog reset the machine before this boot.
#[must_use]
pub fn was_reset_by_watchdog(root: &Path) -> bool {
    let dir = below(root, Path::new(WATCHDOGS));
    let watchdogs = files::list(&dir).unwrap_or_default();
    watchdogs.iter().any(|watchdog| {
        let path = dir.join(watchdog).join("bootstatus");
        let text = files::read(&path, 64).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let status = text.trim().parse().unwrap_or(0_u32);
        status & WDIOF_CARDRESET != 0
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(dumps: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let dir = below(root.path(), Path::new(PSTORE));
        fs::create_dir_all(&dir).expect("a directory");
        for (name, text) in dumps {
            fs::write(dir.join(name), text).expect("a file");
        }
        root
    }

    const PANIC: &str = "Panic#1 Part1
<6>[    1.234567] random: crng init done
<4>[    2.000000] VFS: Cannot open root device \"vda9\" or unknown-block(0,0): error -6
<0>[    2.100000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
<4>[    2.200000] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0
<0>[    2.300000] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---
";

    #[test]
    fn the_line_of_a_panic_is_found_without_what_printk_puts_before_it() {
        let words =
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
        let threads = PANIC.replace("] K", "][    T1] K");
        for text in [PANIC, &threads, &PANIC.replace("<0>", "")] {
            let root = root(&[("console-ramoops-0", "x"), ("dmesg-ramoops-0", text)]);
            assert_eq!(last_words(root.path(), &[]).as_deref(), Some(words));
        }
    }

    #[test]
    fn an_oops_is_told_where_there_is_no_panic_and_the_heading_of_a_dump_is_none() {
        let heading = "Oops#1 Part1\n<6>[    1.0] all is well\n";
        let bug = "<1>[    9.0] BUG: kernel NULL pointer dereference, address: 0000000000000008\n";
        let oops = "<1>[    9.1] Oops: 0002 [#1] SMP\n";
        let panic = "Panic#2 Part1\n<0>[   10.0] Kernel panic - not syncing: Fatal exception\n";
        for (dumps, expected) in [
            (vec![heading.to_owned()], None),
            (
                vec![[heading, bug].concat()],
                Some("BUG: kernel NULL pointer dereference, address: 0000000000000008"),
            ),
            (
                vec![[heading, bug, oops].concat()],
                Some("Oops: 0002 [#1] SMP"),
            ),
            (
                vec![[heading, bug, oops].concat(), panic.to_owned()],
                Some("Kernel panic - not syncing: Fatal exception"),
            ),
        ] {
            let names = ["dmesg-efi-1", "dmesg-efi-2"];
            let texts = dumps.iter().map(String::as_str);
            let dumps: Vec<_> = names.into_iter().zip(texts).collect();
            assert_eq!(last_words(root(&dumps).path(), &[]).as_deref(), expected);
        }
    }

    #[test]
    fn a_dump_that_was_there_before_is_not_blamed_on_the_new_system() {
        let root = root(&[("dmesg-ramoops-0", PANIC)]);
        let known = dumps(root.path());
        assert_eq!(known.len(), 1);
        assert_eq!(last_words(root.path(), &known), None);
        // ramoops begins at number 0 after each boot.
        let path = below(root.path(), Path::new("/sys/fs/pstore/dmesg-ramoops-0"));
        fs::write(path, PANIC.replace("2.100000", "2.100001")).expect("a file");
        assert!(last_words(root.path(), &known).is_some());
    }

    #[test]
    fn what_a_dump_holds_cannot_do_anything_to_a_terminal_and_may_be_anything() {
        let root = root(&[
            ("dmesg-0", "\u{1}\n<0>[ 1.0] Oops \u{1b}[31m\n"),
            ("dmesg-1", "<<<[[[\n<0\n[0\n]\n"),
        ]);
        assert_eq!(
            last_words(root.path(), &[]).as_deref(),
            Some("Oops \\u{1b}[31m")
        );
        let long = format!("<0>[ 1.0] BUG: {}", "x".repeat(10_000));
        let root = self::root(&[("dmesg-0", &long)]);
        let words = last_words(root.path(), &[]).expect("a line");
        assert!(words.chars().count() <= 201, "{}", words.len());
    }

    #[test]
    fn only_the_bit_of_a_reset_is_a_reset_by_the_watchdog() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(!was_reset_by_watchdog(root.path()), "there is none");
        let path = below(root.path(), Path::new(WATCHDOGS)).join("watchdog1/bootstatus");
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        for (text, expected) in [
            ("0\n", false),
            ("32\n", true),
            ("33\n", true),
            ("16\n", false),
            ("nonsense", false),
        ] {
            fs::write(&path, text).expect("a file");
            assert_eq!(was_reset_by_watchdog(root.path()), expected, "{text}");
        }
    }
}
