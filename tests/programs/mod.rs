//! Programs that a test writes and starts.

use std::io::{Result, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// An executable file with this text.
///
/// Another process writes it. What this one held open for writing, the child of any other test would hold
/// open, too, until it has become its own program; and nobody can start a program meanwhile (`ETXTBSY`).
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut shell = Command::new("sh")
        .args(["-c", r#"cat >"$1" && chmod 755 "$1""#, "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = shell.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    assert!(shell.wait()?.success(), "{}", path.display());
    Ok(())
}
