//! The `sysupgrade-rs` command: exit code and logger. All else is in the library.

use std::process::ExitCode;

use sysupgrade_rs::cli;

fn main() -> ExitCode {
    let start_logger = |verbosity| {
        let level = match verbosity {
            ..=1 => log::LevelFilter::Off,
            2 => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        };
        env_logger::Builder::new().filter_level(level).init();
    };
    ExitCode::from(cli::main(std::env::args_os(), start_logger))
}
