//! Raw flash as Linux has it: MTD character devices, UBI, and what sysfs tells of them.

mod mtd;
mod sysfs;

use std::path::{Path, PathBuf};

use super::mtd::RawMtd;
use super::ubi::RawUbi;
use super::{Chips, FlashError};
use crate::board::Volume;

/// The MTDs and UBI devices of this machine.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
}

impl Kernel {
    /// Those of the system whose root is at `root`: `dev` and `sys` are looked for there.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }
}

impl Chips for Kernel {
    fn mtd(&self, name: &str) -> Result<Box<dyn RawMtd>, FlashError> {
        Ok(Box::new(mtd::KernelMtd::open(&self.root, name)?))
    }

    fn ubi(&self, mtd: &str) -> Result<Box<dyn RawUbi>, FlashError> {
        Err(FlashError::NotFound {
            name: format!("mtd {mtd}"),
            problem: format!("not below {}", self.root.display()),
        })
    }

    fn mount(&self, volume: &Volume) -> Result<PathBuf, FlashError> {
        Err(FlashError::NotFound {
            name: volume.to_string(),
            problem: format!("not below {}", self.root.display()),
        })
    }
}
