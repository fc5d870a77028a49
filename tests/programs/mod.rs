//! Programs that tests write, and what programs say that tests start.
#![allow(dead_code, reason = "no test uses all of it")]

use std::io::{Result, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

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

/// What a command says that must succeed.
#[track_caller]
pub(crate) fn succeeds(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// What a command complains of that must fail with this code, and have no answer.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"", "{stderr}");
    stderr
}
