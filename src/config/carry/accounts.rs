//! Accounts of the image that a kept passwd, group or shadow lacks.
//!
//! A kept file stays as it is, but a daemon of the new image does not start without its account:
//! as in stock systems, lines of the image whose account name is missing are appended.

use std::path::Path;

use crate::config::tree::{self, Kind};
use crate::config::{ConfigError, EntryPath};
use crate::files;

/// The files that this is done for: one account a line, its name first, up to a colon.
const FILES: [&[u8]; 3] = [b"etc/passwd", b"etc/group", b"etc/shadow"];

/// The largest such file; others are left as they are.
const MAX: u64 = 1 << 20;

/// A passwd, group or shadow; nothing if it is no file or too long to be one.
pub(in crate::config) fn read(
    root: &Path,
    path: &EntryPath,
) -> Result<Option<Vec<u8>>, ConfigError> {
    match tree::node(root, path)? {
        Some(node) if node.kind == Some(Kind::File) && node.size <= MAX => {
            Ok(Some(files::read(&path.under(root), MAX)?))
        }
        _ => Ok(None),
    }
}

/// True for passwd, group and shadow.
pub(in crate::config) fn is_account_file(path: &EntryPath) -> bool {
    FILES.contains(&path.as_bytes())
}

/// The kept file with the missing accounts of the image's at its end; `None` if none is missing.
pub(in crate::config) fn with_missing(kept: &[u8], image: &[u8]) -> Option<Vec<u8>> {
    let names: Vec<&[u8]> = lines(kept).filter_map(name).collect();
    let mut merged = kept.to_vec();
    if !merged.is_empty() && !merged.ends_with(b"\n") {
        merged.push(b'\n'); // else the last account would grow a tail
    }
    let before = merged.len();
    for line in lines(image) {
        if name(line).is_some_and(|name| !names.contains(&name)) {
            merged.extend_from_slice(line);
            merged.push(b'\n');
        }
    }
    (merged.len() > before).then_some(merged)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|byte| *byte == b':')?;
    Some(&line[..end]).filter(|name| !name.is_empty() && !name.starts_with(b"#"))
}

#[cfg(test)]
mod tests {
    use super::with_missing;

    #[test]
    fn missing_accounts_are_appended_and_others_are_left_alone() {
        let image = b"root:x:0:0::/:/bin/sh\nntp:x:123:123::/:/bin/false\n";
        let merged = with_missing(b"root:mine\nadmin:x:1000:", image).unwrap();
        assert_eq!(
            merged,
            b"root:mine\nadmin:x:1000:\nntp:x:123:123::/:/bin/false\n"
        );
        assert_eq!(with_missing(&merged, image), None);
        assert_eq!(with_missing(b"", b"# no account\n\n"), None);
    }
}
