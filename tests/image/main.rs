//! Hostile images: whatever is changed, and whoever signs the change, an image is refused with its
//! own reason, and nothing that was not signed comes out of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod blocks;
mod changed;
mod good;
#[path = "../images/mod.rs"]
mod images;
mod lies;
mod order;
mod signatures;
mod signing;
