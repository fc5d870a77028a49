//! Speaks the contract of `board/program` for any board, whatever its boot loader: for
//! `scripts/conformance`, which stores states that no command of the product does.
//!
//! ```text
//! boot-state BOARD.toml ROOT load|store|flaws|repair
//! ```

use std::io::{Read, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use sysupgrade_rs::boot::{BootError, program};
use sysupgrade_rs::flash::{Chips, Kernel};
use sysupgrade_rs::{install, system};

const FAILED: u8 = 1;
const REFUSED: u8 = 2;
const UNREADABLE: u8 = 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match *words {
        [board, root, verb] => answer(Path::new(board), Path::new(root), verb),
        _ => Err((REFUSED, "usage: boot-state BOARD.toml ROOT VERB".to_owned())),
    };
    let (code, told) = match answer {
        Ok(text) => (0, stdout().write_all(text.as_bytes())),
        Err((code, why)) => (code, writeln!(std::io::stderr(), "{why}")),
    };
    match told {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(FAILED),
    }
}

fn answer(board: &Path, root: &Path, verb: &str) -> Result<String, (u8, String)> {
    let refused = |why: String| (REFUSED, why);
    let board = system::read_board(root, Some(board))
        .map_err(|error| refused(install::describe(&error)))?;
    let names = board.slots.each_ref().map(|slot| slot.name.clone());
    let chips: Rc<dyn Chips> = Rc::new(Kernel::new(root));
    let mut boot = system::boot(root, &board, &chips);
    let given = || {
        let mut bytes = Vec::new();
        let read = stdin().read_to_end(&mut bytes);
        read.map_err(|error| (FAILED, error.to_string()))?;
        program::parse(&bytes, &names).map_err(refused)
    };
    let list = |lines: Vec<String>| format!("{}\n", serde_json::Value::from(lines));
    match verb {
        "load" => boot
            .load()
            .map(|state| program::document(&state, &names))
            .map_err(|error| failed(&error)),
        "store" => boot
            .store(&given()?)
            .map(|()| String::new())
            .map_err(|error| failed(&error)),
        "flaws" => boot.flaws().map(list).map_err(|error| failed(&error)),
        "repair" => boot
            .repair(&given()?)
            .map(list)
            .map_err(|error| failed(&error)),
        _ => Err(refused(format!("there is no verb {verb}"))),
    }
}

fn failed(error: &BootError) -> (u8, String) {
    let code = match error {
        BootError::File(_) | BootError::Flash(_) | BootError::Program { .. } => FAILED,
        _ => UNREADABLE,
    };
    (code, install::describe(error))
}
