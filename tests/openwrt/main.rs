//! What stock OpenWrt tools read and write, and what they answered: `tests/vectors/openwrt` holds the
//! recorded cases.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backups;
mod built;
mod certificates;
mod compat;
mod container;
mod images;
mod installs;
mod lines;
mod messages;
mod metadata;
mod payload;
#[path = "../images/mod.rs"]
mod pieces;
#[path = "../programs/mod.rs"]
mod programs;
mod restores;
mod revocation;
mod scripts;
mod scripts_boot;
mod scripts_package;
mod signatures;
#[path = "../sim/mod.rs"]
mod sim;
mod site;
mod vectors;
#[path = "../world/mod.rs"]
mod world;
