//! What the kernel tells of its devices in `/sys/class`, and the nodes in `/dev` that belong to them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::files::{self, FileError, below};

/// An attribute is at most a page; names and numbers are far shorter.
const MAX_ATTRIBUTE: u64 = 4096;

/// A device: a directory below `/sys/class`.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    root: PathBuf,
    dir: PathBuf,
    /// What the kernel calls it, as its node in `/dev`: `mtd3`, `ubi0`, `ubi0_2`.
    pub(super) name: String,
}

impl Entry {
    /// The device of this name in a class.
    pub(super) fn new(root: &Path, class: &str, name: &str) -> Self {
        let dir = below(root, Path::new("/sys/class")).join(class).join(name);
        Self {
            root: root.to_owned(),
            dir,
            name: name.to_owned(),
        }
    }

    /// All devices of a class whose name `wanted` wants. A class that the kernel does not know has none.
    pub(super) fn all(
        root: &Path,
        class: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> files::Result<Vec<Self>> {
        let names = match files::list(&below(root, Path::new("/sys/class")).join(class)) {
            Ok(names) => names,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = names.iter().filter_map(|name| name.to_str());
        Ok(names
            .filter(|name| wanted(name))
            .map(|name| Self::new(root, class, name))
            .collect())
    }

    /// Where it is in the tree of all devices, below what it is a part of.
    pub(super) fn place(&self) -> files::Result<PathBuf> {
        fs::canonicalize(&self.dir).map_err(FileError::at("look at", &self.dir))
    }

    /// An attribute, without the newline that the kernel ends it with. Nothing else is trimmed: names may
    /// begin and end with spaces.
    pub(super) fn text(&self, attribute: &str) -> files::Result<String> {
        let bytes = files::read(&self.dir.join(attribute), MAX_ATTRIBUTE)?;
        let mut text = String::from_utf8(bytes).map_err(|_| self.invalid(attribute, "not text"))?;
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }

    /// An attribute that is a decimal number.
    pub(super) fn number<T: FromStr>(&self, attribute: &str) -> files::Result<T> {
        let text = self.text(attribute)?;
        text.parse()
            .map_err(|_| self.invalid(attribute, &format!("no number that fits: {text:?}")))
    }

    /// An attribute that is a hexadecimal number with `0x` before it.
    pub(super) fn flags(&self, attribute: &str) -> files::Result<u32> {
        let text = self.text(attribute)?;
        text.strip_prefix("0x")
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.invalid(attribute, &format!("no hexadecimal number: {text:?}")))
    }

    /// The error of an attribute that says what it cannot say.
    pub(super) fn invalid(&self, attribute: &str, problem: &str) -> FileError {
        let problem = io::Error::new(io::ErrorKind::InvalidData, problem);
        FileError::at("understand", &self.dir.join(attribute))(problem)
    }

    /// Opens its node, if it is the node of this very device. devtmpfs makes and removes nodes together
    /// with their devices; where something else does, a node may be missing, or be left over from another
    /// device that had this number.
    pub(super) fn open(&self, writing: bool) -> files::Result<File> {
        let path = below(&self.root, Path::new("/dev")).join(&self.name);
        // Looked at before it is opened: to open a pipe, for one, would hang.
        let metadata = fs::metadata(&path).map_err(FileError::at("open", &path))?;
        let device = metadata.rdev();
        let node = format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        );
        let wanted = self.text("dev")?;
        if !metadata.file_type().is_char_device() || node != wanted {
            let problem = format!("not the character device {wanted}");
            return Err(FileError::at("open", &path)(io::Error::new(
                io::ErrorKind::InvalidInput,
                problem,
            )));
        }
        OpenOptions::new()
            .read(true)
            .write(writing)
            .open(&path)
            .map_err(FileError::at("open", &path))
    }
}

/// The number in a device's name: 3 of `mtd3`. Neither `mtd3ro` nor `ubi0_2` is a prefix and a number.
pub(super) fn number_of(name: &str, prefix: &str) -> Option<i32> {
    let digits = name.strip_prefix(prefix)?;
    // `+3` would parse, too.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// An error of sysfs where the seams have `io::Error`.
pub(super) fn io_error(error: FileError) -> io::Error {
    io::Error::new(error.source.kind(), error)
}
