//! The image: a signed tar that is checked while it streams.
//!
//! ```text
//! sysupgrade-BOARD/                 directory; BOARD is the first board name with `,` as `_`
//! sysupgrade-BOARD/manifest.json    says everything about the rest; at most 64 KiB
//! sysupgrade-BOARD/manifest.sig     usign signatures over the bytes of manifest.json; at most 16 KiB
//! sysupgrade-BOARD/CONTROL          "BOARD=...", for stock OpenWrt
//! sysupgrade-BOARD/config.tar.gz    optional: the default configuration of the new system
//! sysupgrade-BOARD/NAME.blocks      block table of the part that follows
//! sysupgrade-BOARD/NAME             the part, plain or deflated block by block
//! two zero blocks                   the end of the tar
//! up to 96 KiB                      ignored: padding of tar tools, metadata for stock OpenWrt
//! ```
//!
//! The chain of trust has no gap: the signatures cover the manifest, the manifest has the digest of
//! each small member and of each block table, a table has the digest of each block. Every byte is
//! hashed before anything is made of it; tar headers must say what the manifest says and decide
//! nothing. Reading never goes back, so that an image can come from a pipe.
//!
//! The types go one way: [`Unverified::open`] reads the head, [`Unverified::verify`] turns it into a
//! [`Verified`], and only that hands out contents, through [`PartReader`] and [`ConfigReader`].
//!
//! Stock OpenWrt images are another kind: [`openwrt`]. Who installs does not ask which: [`candidate`].
//!
//! Formats: [`manifest`] and [`blocks`]. The other direction is [`build()`]; what an image costs a
//! router that runs another is counted by [`delta`].

pub mod blocks;
mod build;
pub mod candidate;
pub mod delta;
mod error;
mod header;
mod inspection;
pub mod manifest;
pub mod openwrt;
mod read;

pub use build::{
    BuildError, OpenWrtSigner, PartSource, Spec, add_openwrt, build, openwrt_metadata, sign,
};
pub use error::ImageError;
pub use inspection::Inspection;
pub use manifest::{Encoding, Manifest, MemberInfo, PartInfo};
pub use read::{
    AtHand, ConfigReader, Member, PartReader, Place, Ranged, SHORTEST_GAP, Tally, Unverified,
    Verified,
};

/// Longest manifest. It is held in memory before anybody is known to have signed it; the manifest
/// of an image with three parts has 2 KiB.
pub const MAX_MANIFEST: u64 = 64 << 10;

/// Longest manifest.sig: room for many times the signatures that are looked at.
pub const MAX_SIGNATURES: u64 = 16 << 10;

/// Most bytes after the end of the tar. OpenWrt's metadata tool looks at the last 64 KiB only, and
/// tar programs pad to 10 KiB.
const MAX_TRAILING: u64 = 96 << 10;

/// Bytes of an image that tell its kind.
pub const MAX_HEAD: u64 = 2 * header::TAR_BLOCK as u64;

/// True if an image that begins like this is of our own kind; a stock one has no manifest. An image
/// of which too little is there is taken for ours, whose reader has the words for it.
#[must_use]
pub fn is_ours(head: &[u8]) -> bool {
    let Some((directory, rest)) = head.split_at_checked(header::TAR_BLOCK) else {
        return head.starts_with(b"sysupgrade-");
    };
    let name = directory.iter().take_while(|byte| **byte != 0);
    let manifest: Vec<u8> = name.chain(MANIFEST.as_bytes()).copied().collect();
    directory.starts_with(b"sysupgrade-") && (rest.is_empty() || rest.starts_with(&manifest))
}

const MANIFEST: &str = "manifest.json";
const SIGNATURES: &str = "manifest.sig";
const CONTROL: &str = "CONTROL";
const CONFIG: &str = "config.tar.gz";

/// The directory all members of an image for this board are in.
fn directory(board: &str) -> String {
    format!("sysupgrade-{}/", board.replace(',', "_"))
}
