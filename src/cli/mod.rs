//! Words in, calls out: everything that talks to people and to calling programs.

pub mod args;
pub mod progress;
pub mod source;
