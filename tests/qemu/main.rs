//! The joints: real kernels, real GRUB, systemd-boot and U-Boot, real reboots, and the plug pulled.
//!
//! Everything that can be proven without a machine is proven elsewhere, faster and more thoroughly.
//! These tests need QEMU (`qemu/build` names the packages), and run with
//! `cargo test --test qemu -- --ignored`.

mod configuration;
mod efi;
mod flash;
mod grub;
mod health;
mod malta;
mod openwrt;
mod router;
mod server;
#[path = "../sim/mod.rs"]
mod sim;
mod uboot;
mod upgrade;
#[path = "../world/mod.rs"]
mod world;
