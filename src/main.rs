//! The `sysupgrade-rs` command: exit code and logger. All else is in the library.

use std::process::ExitCode;

use sysupgrade_rs::cli::{self, args};

fn main() -> ExitCode {
    let code = match args::parse(std::env::args_os()) {
        Ok((settings, command)) => {
            let level = match settings.verbosity {
                ..=1 => log::LevelFilter::Off,
                2 => log::LevelFilter::Debug,
                _ => log::LevelFilter::Trace,
            };
            env_logger::Builder::new().filter_level(level).init();
            cli::run(&settings, command)
        }
        Err(no) => cli::no_command(&no),
    };
    ExitCode::from(code as u8)
}
