//! The name of an entry below a root.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;

/// The longest name in bytes: Linux takes no longer path in one call.
const MAX_LEN: usize = 4095;

/// The longest component: no file system of Linux has longer names.
const MAX_NAME: usize = 255;

/// The most components: real trees have a dozen, and trees of this depth are walked by recursion.
pub(super) const MAX_DEPTH: usize = 64;

/// A path below a root: bytes, at least one component, none of them empty, `.` or `..`, no slash
/// at either end. Ordered bytewise, as the lists of stock tools are.
///
/// As text (JSON, messages) it is UTF-8 in which a backslash is `\\` and a byte that is not UTF-8
/// is `\xHH`: every name has one text, and every such text one name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

/// Why bytes are not an [`EntryPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAPath {
    Empty,
    TooLong,
    TooDeep,
    /// A NUL byte.
    Nul,
    /// A component `..`.
    Upward,
}

impl NotAPath {
    pub(super) fn problem(self) -> &'static str {
        match self {
            Self::Empty => "names nothing",
            Self::TooLong => "is longer than 4095 bytes, or a name in it than 255",
            Self::TooDeep => "is more than 64 directories deep",
            Self::Nul => "holds a NUL byte",
            Self::Upward => "holds `..`",
        }
    }
}

impl EntryPath {
    /// Reads a path, taking any slash at its ends, doubled slashes and `.` components away.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, NotAPath> {
        if bytes.contains(&0) {
            return Err(NotAPath::Nul);
        }
        let mut clean = Vec::with_capacity(bytes.len());
        let mut depth = 0;
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(NotAPath::Upward),
                name if name.len() > MAX_NAME => return Err(NotAPath::TooLong),
                name => {
                    if depth > 0 {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                    depth += 1;
                }
            }
        }
        match (depth, clean.len()) {
            (0, _) => Err(NotAPath::Empty),
            (_, len) if len > MAX_LEN => Err(NotAPath::TooLong),
            (depth, _) if depth > MAX_DEPTH => Err(NotAPath::TooDeep),
            _ => Ok(Self(clean.into())),
        }
    }

    /// Reads a path as an owner types it: from the root, whether it begins with a slash or not.
    ///
    /// # Errors
    /// When it cannot be a path.
    pub(super) fn typed(text: &[u8]) -> Result<Self, ConfigError> {
        Self::new(text).map_err(|why| ConfigError::NotAPath {
            text: escape(text),
            problem: why.problem(),
        })
    }

    /// This entry of a directory, or nothing if that is too long or deep.
    pub(super) fn join(&self, name: &OsStr) -> Result<Self, NotAPath> {
        let mut bytes = self.0.to_vec();
        bytes.push(b'/');
        bytes.extend_from_slice(name.as_bytes());
        Self::new(&bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Below this root.
    pub(super) fn under(&self, root: &Path) -> PathBuf {
        root.join(self.as_path())
    }

    /// The directories above it, the outermost first.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(end, _)| Self(self.0[..end].into()))
    }

    /// True if it is this directory or below it.
    pub(super) fn is_within(&self, dir: &str) -> bool {
        self.0
            .strip_prefix(dir.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// True if it is below that one.
    pub(super) fn is_below(&self, dir: &Self) -> bool {
        self.0
            .strip_prefix(&*dir.0)
            .is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// What follows this directory.
    pub(super) fn strip(&self, dir: &str) -> Option<Self> {
        let rest = self.0.strip_prefix(dir.as_bytes())?.strip_prefix(b"/")?;
        Self::new(rest).ok()
    }
}

impl TryFrom<&[u8]> for EntryPath {
    type Error = &'static str;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Self::new(bytes).map_err(NotAPath::problem)
    }
}

impl From<&EntryPath> for String {
    fn from(path: &EntryPath) -> Self {
        escape(&path.0)
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape(&self.0))
    }
}

impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes =
            unescape(&text).ok_or_else(|| de::Error::custom(format!("bad escape in `{text}`")))?;
        let path = Self::new(&bytes)
            .map_err(|why| de::Error::custom(format!("path `{text}` {}", why.problem())))?;
        if *path.0 != *bytes {
            return Err(de::Error::custom(format!(
                "path `{text}` is not in its shortest form"
            )));
        }
        Ok(path)
    }
}

/// Bytes as text, without loss; see [`EntryPath`].
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push('\\');
            }
            text.push(c);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes of an [`escape`]d text; `None` for an escape that `escape` does not write.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match tail {
            [b'\\', tail @ ..] => {
                bytes.push(b'\\');
                rest = tail;
            }
            [b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = tail;
            }
            _ => return None,
        }
    }
    // Only what `escape` writes: otherwise two texts could name one file.
    (escape(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_brought_to_one_form_and_never_lead_upward() {
        for (from, to) in [
            ("/etc//a/./b/", Ok("etc/a/b")),
            ("./etc", Ok("etc")),
            ("etc/..x", Ok("etc/..x")),
            ("", Err(NotAPath::Empty)),
            ("/./", Err(NotAPath::Empty)),
            ("etc/../a", Err(NotAPath::Upward)),
            ("a\0b", Err(NotAPath::Nul)),
        ] {
            let got = EntryPath::new(from.as_bytes()).map(|path| path.to_string());
            assert_eq!(got, to.map(str::to_owned), "{from:?}");
        }
        assert_eq!(EntryPath::new(&[b'a'; 256]), Err(NotAPath::TooLong));
        let long = [[b'a'; 255].as_slice(); 16].join(&b'/');
        assert!(EntryPath::new(&long).is_ok());
        let longer = [&long[..], b"/a"].concat();
        assert_eq!(EntryPath::new(&longer), Err(NotAPath::TooLong));
        assert_eq!(EntryPath::new(&b"a/".repeat(65)), Err(NotAPath::TooDeep));
    }

    #[test]
    fn every_name_has_one_text_and_comes_back_from_it() {
        for name in [
            &b"etc/plain"[..],
            b"new\nline",
            "gr\u{fc}n \u{202e}".as_bytes(),
            b"bad \xff\xfe byte",
            b"back\\slash \\x41",
            b"cut \xe2\x82",
        ] {
            let path = EntryPath::new(name).unwrap();
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(
                serde_json::from_str::<EntryPath>(&json).unwrap(),
                path,
                "{json}"
            );
        }
        for text in [
            r"\x41", r"\", r"\q", r"\xf", r"\xFF", r"\x+f", "/etc", "a//b",
        ] {
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<EntryPath>(&json).is_err(), "{text}");
        }
    }
}
