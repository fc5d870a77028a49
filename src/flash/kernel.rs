//! Raw flash as Linux has it: MTD character devices, UBI, and what sysfs tells of them.

mod mtd;
mod place;
mod sysfs;
mod ubi;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::mount::MountFlags;

use super::mtd::RawMtd;
use super::ubi::RawUbi;
use super::{Chips, FlashError};
use crate::board::Volume;
use crate::files::{self, FileError, below};

pub use place::place;

/// Where what lives until the next boot is.
const RUN: &str = "/run/sysupgrade-rs";

/// Below it, where volumes are mounted; what is on them is nobody's business but root's.
const MOUNTS: &str = "mnt";

/// The MTDs and UBI devices of this machine.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
}

impl Kernel {
    /// Those of the system whose root is at `root`: `dev`, `proc`, `run` and `sys` are looked for there.
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
        Ok(Box::new(ubi::KernelUbi::attach(&self.root, mtd)?))
    }

    /// At a directory of its own, named as its node: a volume keeps its number as long as it is mounted,
    /// so what is mounted there is this volume.
    fn mount(&self, volume: &Volume) -> Result<PathBuf, FlashError> {
        let unusable = |problem: &str, source: io::Error| FlashError::Unusable {
            name: volume.to_string(),
            problem: problem.to_owned(),
            source: Some(source),
        };
        let looked_up = |source| unusable("cannot be looked up", source);
        let mut ubi = ubi::KernelUbi::attach(&self.root, &volume.mtd)?;
        let Some(entry) = ubi.find(&volume.volume).map_err(looked_up)? else {
            let names = ubi.names().map_err(looked_up)?;
            return Err(FlashError::NotFound {
                name: volume.to_string(),
                problem: match names.as_slice() {
                    [] => "there is no volume at all".to_owned(),
                    _ => format!("there are only the volumes {}", names.join(", ")),
                },
            });
        };
        let run = below(&self.root, Path::new(RUN));
        let above = run.join(MOUNTS);
        let point = above.join(&entry.name);
        files::make_dirs(&run, 0o755)?;
        files::make_dirs(&point, 0o700)?;
        let device_of = |path: &Path| {
            fs::metadata(path)
                .map(|metadata| metadata.dev())
                .map_err(FileError::at("look at", path))
        };
        if device_of(&point)? != device_of(&above)? {
            return Ok(point);
        }
        // Nothing on it is a program or a device, and to note when a file was read would wear the flash.
        let flags =
            MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID;
        rustix::mount::mount(entry.name.as_str(), &point, "ubifs", flags, None)
            .map_err(|error| unusable("cannot be mounted as ubifs", error.into()))?;
        Ok(point)
    }
}
