//! Stock OpenWrt images: a payload that some flasher understands, with chunks of metadata and
//! signature behind it.

pub mod compat;
pub mod fwtool;
pub mod metadata;
pub mod payload;
