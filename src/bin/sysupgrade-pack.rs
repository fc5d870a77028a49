//! The `sysupgrade-pack` command.
fn main() {}
