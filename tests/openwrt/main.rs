//! What stock OpenWrt tools read and write, and what they answered: `tests/vectors/openwrt` holds the
//! recorded cases.

mod backups;
mod certificates;
mod revocation;
mod signatures;
mod vectors;
