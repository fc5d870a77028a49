//! What owners say of their files, written down for them: the keep list and the policy.
//!
//! Both files are lists of words that are patterns. A path that exists is meant as it is, so what
//! would make it a pattern is taken back with a backslash; a blank, which would divide it, becomes a
//! `?`, which stands for one. What does not exist may be a pattern, and is taken as it was typed.

use std::io::Write;
use std::path::Path;

use thiserror::Error;

use crate::config::carry::keep::{self, KeepList};
use crate::config::merge::policy::{Disposition, Policy};
use crate::config::path::escape;
use crate::config::tree::{self, Kind, Meta, Node};
use crate::config::{ConfigError, EntryPath, STATE_DIR};
use crate::files::{self, FileError, NewFile};

/// The user's policy.
const POLICY: &str = "etc/sysupgrade.policy";

/// Both files are lines that people write.
const MAX_FILE: u64 = 256 << 10;

/// What was said of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The path, or pattern, as typed.
    pub path: EntryPath,
    /// The line that says it, as text without loss.
    pub line: String,
    /// False if the file said so before.
    pub added: bool,
    /// What the owner may not expect.
    pub hint: Option<Hint>,
}

/// Why a line does not have the effect that it seems to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing on this system has that name.
    NamesNothing,
    /// A pin is about what is carried, and no keep list names this.
    NotKept,
}

/// Why nothing was written down.
#[derive(Debug, Error)]
pub enum DeclareError {
    /// Not a path, or the files of the system cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What belongs to this program is not carried.
    #[error("`{path}` belongs to sysupgrade-rs itself, which never carries it")]
    OwnState {
        /// As typed.
        path: EntryPath,
    },
    /// A pattern that no policy may have.
    #[error("`{path}` is no pattern for a policy: `**` stands for whole directories only")]
    NoPattern {
        /// As typed.
        path: EntryPath,
    },
    /// A link or a directory stands where the file should.
    #[error("`{file}` is no regular file")]
    NoFile {
        /// Below the root.
        file: &'static str,
    },
}

impl From<FileError> for DeclareError {
    fn from(error: FileError) -> Self {
        Self::Config(error.into())
    }
}

/// Puts paths on the keep list of the system at `root`; all of them or, after an error, none.
///
/// # Errors
/// [`DeclareError`].
pub fn keep(root: &Path, paths: &[&[u8]]) -> Result<Vec<Declared>, DeclareError> {
    let mut words = keep::own_words(root)?;
    let mut list = Vec::new();
    for path in typed(paths)? {
        let exists = tree::node(root, &path)?.is_some();
        let line = word(&path, exists, Syntax::KeepList);
        // Read back as it will be: two spellings of one path are one.
        let said = EntryPath::typed(&line)?;
        let hint = match keep::names_something(root, &said)? {
            true => None,
            false => Some(Hint::NamesNothing),
        };
        list.push(Saying {
            added: words.insert(said),
            path,
            line,
            hint,
        });
    }
    write_down(root, keep::USER_LIST, list)
}

/// Says in the policy of the system at `root` that the user's version of paths always stays; of all
/// of them or, after an error, none.
///
/// # Errors
/// [`DeclareError`].
pub fn pin(root: &Path, paths: &[&[u8]]) -> Result<Vec<Declared>, DeclareError> {
    let mut policy = Policy::default();
    policy.append(&read(root, POLICY)?.0, POLICY);
    let kept = KeepList::read(root)?;
    let mut list = Vec::new();
    for path in typed(paths)? {
        let exists = tree::node(root, &path)?.is_some();
        let line = [&*word(&path, exists, Syntax::Policy), b" keep"].concat();
        let added = policy.of(&path).disposition != Disposition::Keep;
        if !policy.append(&line, POLICY).is_empty() {
            return Err(DeclareError::NoPattern { path });
        }
        let hint = match kept.is_named(&path) {
            true => None,
            false => Some(Hint::NotKept),
        };
        list.push(Saying {
            path,
            line,
            added,
            hint,
        });
    }
    write_down(root, POLICY, list)
}

/// What will have been said of one path.
struct Saying {
    path: EntryPath,
    line: Vec<u8>,
    added: bool,
    hint: Option<Hint>,
}

fn typed(paths: &[&[u8]]) -> Result<Vec<EntryPath>, DeclareError> {
    let read = |text: &&[u8]| match EntryPath::typed(text)? {
        path if path.is_within(STATE_DIR) => Err(DeclareError::OwnState { path }),
        path => Ok(path),
    };
    paths.iter().map(read).collect()
}

/// Where a word stands: in a keep list a backslash is one, unless its component is a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Syntax {
    KeepList,
    Policy,
}

/// The word for a path: if it exists, one that names it and not what it would fit as a pattern.
fn word(path: &EntryPath, exists: bool, syntax: Syntax) -> Vec<u8> {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[') || byte.is_ascii_whitespace();
    let mut word = Vec::new();
    for component in path.as_bytes().split(|byte| *byte == b'/') {
        word.push(b'/');
        let is_pattern = syntax == Syntax::Policy || component.iter().any(special);
        for byte in component {
            let escaped = matches!(byte, b'*' | b'?' | b'[' | b'\\');
            if byte.is_ascii_whitespace() {
                word.push(b'?');
                continue;
            }
            if exists && is_pattern && escaped {
                word.push(b'\\');
            }
            word.push(*byte);
        }
    }
    word
}

/// Adds the lines that are new to a file, if there are any.
fn write_down(
    root: &Path,
    file: &'static str,
    list: Vec<Saying>,
) -> Result<Vec<Declared>, DeclareError> {
    let (mut text, meta) = read(root, file)?;
    let before = text.len();
    for Saying { line, .. } in list.iter().filter(|saying| saying.added) {
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    if text.len() as u64 > MAX_FILE {
        return Err(DeclareError::Config(ConfigError::TooMuch {
            what: file,
            most: MAX_FILE,
        }));
    }
    if text.len() > before {
        replace(&root.join(file), &text, meta)?;
    }
    let declared = list.into_iter().map(|saying| Declared {
        path: saying.path,
        line: escape(&saying.line),
        added: saying.added,
        hint: saying.hint,
    });
    Ok(declared.collect())
}

/// A file's text, and its permissions and owner; nothing of one that is not there.
fn read(root: &Path, file: &'static str) -> Result<(Vec<u8>, Option<Meta>), DeclareError> {
    let path = EntryPath::typed(file.as_bytes())?;
    match tree::node(root, &path)? {
        None => Ok((Vec::new(), None)),
        Some(Node {
            kind: Some(Kind::File),
            meta,
            ..
        }) => Ok((files::read(&path.under(root), MAX_FILE)?, Some(meta))),
        Some(_) => Err(DeclareError::NoFile { file }),
    }
}

fn replace(path: &Path, text: &[u8], meta: Option<Meta>) -> files::Result<()> {
    let mut file = NewFile::create(path, meta.map_or(0o644, |meta| meta.mode))?;
    if let Some(Meta { uid, gid, .. }) = meta {
        file.set_owner(uid, gid)?;
    }
    file.write_all(text).map_err(FileError::at("write", path))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn text(root: &Path, file: &str) -> String {
        fs::read_to_string(root.join(file)).unwrap()
    }

    #[test]
    fn a_path_is_put_on_the_list_once_whatever_its_spelling() {
        let dir = root(&[("etc/sysupgrade.conf", "# mine\n/etc/old"), ("etc/x", "")]);
        let root = dir.path();
        let added = |paths: &[&[u8]]| {
            let list = keep(root, paths).unwrap();
            list.iter().map(|said| said.added).collect::<Vec<_>>()
        };
        assert_eq!(
            added(&[b"/etc/x", b"etc//x/", b"/etc/old"]),
            [true, false, false]
        );
        let wanted = "# mine\n/etc/old\n/etc/x\n";
        assert_eq!(text(root, "etc/sysupgrade.conf"), wanted);
        assert_eq!(added(&[b"etc/x"]), [false]);
        assert_eq!(text(root, "etc/sysupgrade.conf"), wanted);
    }

    #[test]
    fn a_word_in_a_comment_keeps_nothing() {
        let dir = root(&[("etc/sysupgrade.conf", "#/etc/x\n")]);
        assert!(keep(dir.path(), &[b"/etc/x"]).unwrap()[0].added);
        assert_eq!(text(dir.path(), "etc/sysupgrade.conf"), "#/etc/x\n/etc/x\n");
    }

    #[test]
    fn a_pin_is_said_once_and_again_when_a_later_line_says_otherwise() {
        let dir = root(&[]);
        let root = dir.path();
        assert!(pin(root, &[b"/etc/x"]).unwrap()[0].added);
        assert_eq!(text(root, POLICY), "/etc/x keep\n");
        assert!(!pin(root, &[b"/etc/x", b"/etc/x/below"]).unwrap()[0].added);
        assert_eq!(text(root, POLICY), "/etc/x keep\n");
        fs::write(root.join(POLICY), "/etc/x keep\n/etc auto").unwrap();
        assert!(pin(root, &[b"etc/x"]).unwrap()[0].added);
        assert_eq!(text(root, POLICY), "/etc/x keep\n/etc auto\n/etc/x keep\n");
    }

    #[test]
    fn permissions_of_the_file_stay() {
        let dir = root(&[("etc/sysupgrade.conf", "")]);
        let file = dir.path().join("etc/sysupgrade.conf");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        keep(dir.path(), &[b"/etc/x"]).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        pin(dir.path(), &[b"/etc/x"]).unwrap();
        let made = fs::metadata(dir.path().join(POLICY)).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o644);
    }

    #[test]
    fn odd_names_are_written_so_that_they_name_the_file_and_are_kept() {
        let names: [&[u8]; 8] = [
            b"etc/a b",
            b"etc/a*b",
            b"etc/a\\b",
            b"etc/[x] \\y",
            b"etc/a#b",
            b"etc/'q'",
            b"etc/new\nline",
            b"etc/\xff",
        ];
        for name in names {
            let dir = root(&[]);
            let root = dir.path();
            let path = EntryPath::new(name).unwrap();
            fs::write(path.under(root), "").unwrap();
            fs::write(root.join("etc/axb"), "").unwrap();
            assert_eq!(keep(root, &[name]).unwrap()[0].hint, None, "{path}");
            assert!(!keep(root, &[name]).unwrap()[0].added, "{path}");
            let pinned = pin(root, &[name]).unwrap();
            assert_eq!((pinned[0].added, pinned[0].hint), (true, None), "{path}");
            assert!(!pin(root, &[name]).unwrap()[0].added, "{path}");
            let list = KeepList::read(root).unwrap();
            assert!(list.paths().any(|kept| *kept == path), "{path}");
            if !name.contains(&b' ') {
                assert_eq!(list.paths().count(), 1, "{path}: {list:?}");
            }
            let mut policy = Policy::default();
            let odd = policy.append(&fs::read(root.join(POLICY)).unwrap(), "x");
            assert_eq!(odd, [], "{path}");
            assert_eq!(policy.of(&path).disposition, Disposition::Keep, "{path}");
        }
    }

    #[test]
    fn what_names_nothing_may_be_a_pattern() {
        let dir = root(&[("etc/a.conf", "")]);
        let root = dir.path();
        let said = keep(root, &[b"/etc/*.conf"]).unwrap();
        assert_eq!(said[0].line, "/etc/*.conf");
        assert_eq!(said[0].hint, None);
        let said = keep(root, &[b"/etc/b.cfg"]).unwrap();
        assert_eq!(said[0].hint, Some(Hint::NamesNothing));
        assert_eq!(pin(root, &[b"/etc/*.conf"]).unwrap()[0].hint, None);
        let said = pin(root, &[b"/etc/c"]).unwrap();
        assert_eq!(said[0].hint, Some(Hint::NotKept));
        assert_eq!(text(root, POLICY), "/etc/*.conf keep\n/etc/c keep\n");
    }

    #[test]
    fn after_an_error_nothing_is_written() {
        let dir = root(&[]);
        let root = dir.path();
        for wrong in [
            &b"../x"[..],
            b"/",
            b"",
            b"a\0b",
            b"/etc/sysupgrade/state.json",
        ] {
            assert!(keep(root, &[b"/etc/x", wrong]).is_err(), "{wrong:?}");
            assert!(pin(root, &[b"/etc/x", wrong]).is_err(), "{wrong:?}");
        }
        assert!(pin(root, &[b"/etc/x", b"/etc/a**b"]).is_err());
        assert_eq!(fs::read_dir(root.join("etc")).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_not_replaced_by_a_file() {
        let dir = root(&[("etc/elsewhere", "/etc/y\n")]);
        symlink("elsewhere", dir.path().join("etc/sysupgrade.conf")).unwrap();
        let error = keep(dir.path(), &[b"/etc/x"]).unwrap_err();
        assert!(matches!(error, DeclareError::NoFile { .. }), "{error}");
        assert_eq!(text(dir.path(), "etc/elsewhere"), "/etc/y\n");
    }
}
