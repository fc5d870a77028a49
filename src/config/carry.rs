//! What of a system travels to its next version, and in what.
//!
//! ```text
//! keep lists ─┐
//! policy ─────┼─> scope ──> archive ──────────> first boot, plan
//! baseline ───┘    what      tarball + bundle   restore (`-r`)
//! ```

pub(in crate::config) mod accounts;
pub mod archive;
pub mod baseline;
pub mod bundle;
pub mod declare;
pub mod keep;
pub(in crate::config) mod owners;
pub(in crate::config) mod packages;
pub mod restore;
pub(in crate::config) mod scope;
pub(in crate::config) mod services;
pub(in crate::config) mod tarball;
pub(in crate::config) mod walk;
