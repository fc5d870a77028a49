//! `-i`: questions before an upgrade, on the terminal or whatever standard input is.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::Command;

use super::answer::Failure;
use crate::files::below;

/// The list that the owner may change.
const LIST: &str = "/etc/sysupgrade.conf";

/// Asks whether the configuration is to be kept, and lets its list be edited. Returns whether it is.
pub(super) fn about_configuration(root: &Path, keep: bool) -> Result<bool, Failure> {
    let keep = yes("Keep the configuration?", keep)?;
    if keep && yes("Edit the list of kept files?", false)? {
        let list = below(root, Path::new(LIST));
        let failed =
            |error: &io::Error| Failure::doing("edit the list of kept files with vi", error);
        let status = Command::new("vi").arg(list).status();
        let status = status.map_err(|error| failed(&error))?;
        if !status.success() {
            return Err(failed(&io::Error::other(status.to_string())));
        }
    }
    Ok(keep)
}

/// An empty answer takes the default; the end of input takes nothing for granted.
fn yes(question: &str, default: bool) -> Result<bool, Failure> {
    let choice = if default { "Y/n" } else { "y/N" };
    loop {
        let mut out = io::stderr();
        let _ = write!(out, "{question} ({choice}): ").and_then(|()| out.flush());
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        match read.map_err(|error| Failure::doing("read the answer", &error))? {
            0 => {
                let _ = writeln!(out);
                let ended = io::ErrorKind::UnexpectedEof.into();
                let failure = Failure::doing("read the answer", &ended);
                return Err(failure.hinted("leave out -i where nobody answers"));
            }
            _ => match line.trim() {
                "" => return Ok(default),
                "y" | "Y" => return Ok(true),
                "n" | "N" => return Ok(false),
                _ => {}
            },
        }
    }
}
