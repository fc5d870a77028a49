//! A disk whose power can go: what a real one may hold after a cut.
//!
//! [`Disk`] replays the operations that [`sysupgrade_rs::files`] recorded, and keeps two things
//! apart: what the medium is sure to hold, and what still waits in the kernel's cache.
//!
//! ```text
//! operation                                 waits until
//! write to a file                           fsync of that file
//! create, rename, remove, link, whiteout    fsync of the directory (rename: the one it moves into)
//! chmod                                     fsync of the file or directory
//! ```
//!
//! What waits may land at any time, in any order, in part: bytes by sectors, names one by one. Only
//! a rename is atomic: the name moves or it does not. [`cuts`] walks through a recorded run and lists the
//! disks that a cut could leave behind, in every operation of it and after its end.
//!
//! Flash is [`Chips`]: it has no cache, but its operations can be torn, and leave bits that read one
//! way now and another way later. [`Run::cuts`] walks through a run that worked on both.
//!
//! The model is meaner than most file systems. ext4 lands names in order, and rarely shows zeros;
//! others do neither, and a router may have any.
#![allow(unreachable_pub, reason = "`pub` is for the test that uses this")]
#![allow(dead_code, unused_imports, reason = "not every test uses all of it")]

mod board;
pub mod chips;
mod cuts;
mod disk;
mod proof;

pub use board::{Raw, simulated};
pub use chips::{Chips, ChipsState, Operation, Verb};
pub use cuts::{Crash, Run, cuts, one_each, path_of};
pub use disk::Disk;

/// What a disk writes whole or not at all, if it is a kind one.
pub const SECTOR: usize = 512;

/// Numbers that look random and come again with the same seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    /// True in one case of two.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
