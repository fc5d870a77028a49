//! A virtual router's boot loader.
fn main() {}
