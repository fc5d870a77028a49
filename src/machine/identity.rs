//! Who this machine is, as OpenWrt's rules for images ask.
//!
//! | what | where from |
//! | --- | --- |
//! | board name | `/tmp/sysinfo/board_name`: from the device tree or the DMI tables, made at start-up |
//! | its maker's name for it | `/tmp/sysinfo/oem_name` |
//! | compatibility version | its configuration, see [`compat`] |
//!
//! A system that is not OpenWrt has none of these; there the names of the board file count.

use std::path::Path;

use crate::config::compat;
use crate::files::{self, FileError, below};
use crate::image::openwrt::Compat;

const BOARD_NAME: &str = "/tmp/sysinfo/board_name";
const OEM_NAME: &str = "/tmp/sysinfo/oem_name";

/// Names are one line.
const MAX_NAME: u64 = 4 << 10;

/// What the machine tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its board name, if it tells any; it may be empty.
    pub board_name: Option<String>,
    /// The name its maker's own images have for it.
    pub oem_name: Option<String>,
    /// The compatibility version of its configuration.
    pub compat: Compat,
}

impl Identity {
    /// Of the system below `root`.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(root: &Path) -> Result<Self, FileError> {
        Ok(Self {
            board_name: line(root, BOARD_NAME)?,
            oem_name: line(root, OEM_NAME)?.filter(|name| !name.is_empty()),
            compat: compat(root)?,
        })
    }
}

fn line(root: &Path, path: &str) -> Result<Option<String>, FileError> {
    let text = files::read_if_exists(&below(root, Path::new(path)), MAX_NAME)?;
    Ok(text.map(|text| String::from_utf8_lossy(&text).trim_ascii().to_owned()))
}

fn compat(root: &Path) -> Result<Compat, FileError> {
    let package = files::read_if_exists(&root.join(compat::PACKAGE), compat::MAX_PACKAGE)?;
    Ok(package
        .and_then(|text| compat::read(&text))
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = below(root.path(), Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_system_that_says_nothing_has_no_name_and_the_oldest_compatibility_version() {
        let found = Identity::read(root(&[]).path()).unwrap();
        let expected = Identity {
            board_name: None,
            oem_name: None,
            compat: Compat::default(),
        };
        assert_eq!(found, expected);
        assert_eq!(found.compat.as_str(), "1.0");
    }

    #[test]
    fn the_first_system_section_tells_the_compatibility_version() {
        let text = "config timeserver 'ntp'\n\toption compat_version '9.9'\n\
                    config system\n\toption hostname 'a'\n\toption compat_version '1.2'\n\
                    config system\n\toption compat_version '1.3'\n";
        let files = [
            (compat::PACKAGE, text),
            (BOARD_NAME, "acme,router-a1\n"),
            (OEM_NAME, "a1\n"),
        ];
        let found = Identity::read(root(&files).path()).unwrap();
        assert_eq!(found.compat.as_str(), "1.2");
        assert_eq!(found.board_name.as_deref(), Some("acme,router-a1"));
        assert_eq!(found.oem_name.as_deref(), Some("a1"));
    }

    #[test]
    fn an_empty_board_name_is_one_that_no_image_has() {
        let found = Identity::read(root(&[(BOARD_NAME, "\n"), (OEM_NAME, "")]).path()).unwrap();
        assert_eq!(found.board_name.as_deref(), Some(""));
        assert_eq!(found.oem_name, None);
    }
}
