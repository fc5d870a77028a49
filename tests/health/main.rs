//! Does the new system do what the old one did? Checks are run as processes, judged by what worked
//! before, and the guard keeps the system or goes back.

#![allow(unreachable_pub, reason = "`pub` is for the other files of this test")]

#[path = "../world/mod.rs"]
mod world;

mod checks;
mod guard;
mod reasons;
mod router;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
