//! The `sysupgrade-rs` command.
fn main() {}
