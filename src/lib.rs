//! Firmware upgrades for routers with two system slots.
//!
//! The new system is written beside the running one, proven, tried, and only then kept.
//!
//! # Three promises
//!
//! 1. **Always bootable.** Power may go at any instruction: the next boot finds a whole system with
//!    a configuration that belongs to it.
//! 2. **Nothing unsigned.** No byte that a trusted signature does not cover reaches the flash, a
//!    decompressor, a parser of decisions, or the configuration.
//! 3. **Nothing in silence.** What happens to every kept file is known before and told after. A
//!    failed step fails the run. A refusal says which rule, with both values, and what to do.
//!
//! # Map
//!
//! A file uses only floors below its own.
//!
//! ```text
//! floor 5   main.rs   bin/sysupgrade-pack.rs           exit code, logger
//! floor 4   cli/   doctor.rs   system.rs               words <-> calls, all printing | board file -> opened things
//! floor 3   install.rs   first_boot.rs   trial.rs       the stories: they see traits and values only
//!           guard.rs   status.rs   machine.rs
//! floor 2   config/   boot/ -> flash/   data.rs        things with a medium, a process or a driver
//!           health.rs   watchdog.rs   postmortem.rs    behind them
//! floor 1   image/   trust/   slots.rs   board.rs   report.rs   digest.rs   bytes and values in, bytes and values out
//!           toml_text.rs
//! floor 0   files.rs   process.rs   sys.rs             the operating system
//! ```
//!
//! Semantic versioning covers the command line, the formats and the exit codes; the Rust interface
//! serves the two binaries and the tests and may change at any time.

pub mod board;
pub mod boot;
pub mod cli;
pub mod config;
pub mod data;
pub mod digest;
pub mod doctor;
pub mod files;
pub mod first_boot;
pub mod flash;
pub mod guard;
pub mod health;
pub mod image;
pub mod install;
pub mod machine;
pub mod postmortem;
pub mod process;
pub mod report;
pub mod slots;
pub mod status;
pub mod sys;
pub mod system;
pub mod toml_text;
pub mod trial;
pub mod trust;
pub mod watchdog;
