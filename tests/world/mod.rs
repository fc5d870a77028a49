//! A small world for tests: a virtual router in a temporary directory, with keys, images and a
//! configuration.
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

pub mod router;
pub mod snapshot;
