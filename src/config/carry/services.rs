//! Which services start at boot.
//!
//! `/etc/rc.d` is made of links `S50NAME` and `K10NAME` to `/etc/init.d/NAME`; the numbers are those
//! of the script and may change with it. What a user decides is whether there is an `S` link, so
//! that is what travels: names, not links.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::path::{escape, unescape};
use crate::config::tree::{self, Kind};
use crate::config::{ConfigError, EntryPath};
use crate::files;

/// Where the links are.
pub(in crate::config) const LINKS: &str = "etc/rc.d";

/// Services that start at boot, as text without loss, or nothing if the tree has no [`LINKS`].
pub(in crate::config) fn enabled(root: &Path) -> Result<Option<BTreeSet<String>>, ConfigError> {
    let Ok(dir) = EntryPath::new(LINKS.as_bytes()) else {
        return Ok(None);
    };
    if tree::node(root, &dir)?.is_none_or(|node| node.kind != Some(Kind::Dir)) {
        return Ok(None);
    }
    let mut names = BTreeSet::new();
    for link in files::list(&dir.under(root))? {
        let Ok(path) = dir.join(&link) else { continue };
        if let Some(name) = started_by(link.as_encoded_bytes())
            && tree::node(root, &path)?.is_some_and(|node| node.kind == Some(Kind::Link))
        {
            names.insert(name);
        }
    }
    Ok(Some(names))
}

/// Of the name of a link, `S50NAME` or `K10NAME`: whether it starts the service, and which.
pub(in crate::config) fn parse_link(link: &[u8]) -> Option<(bool, &[u8])> {
    match link {
        [b'S', b'0'..=b'9', b'0'..=b'9', service @ ..] => Some((true, service)),
        [b'K', b'0'..=b'9', b'0'..=b'9', service @ ..] => Some((false, service)),
        _ => None,
    }
}

/// The service that a link starts.
pub(in crate::config) fn started_by(link: &[u8]) -> Option<String> {
    let (true, service) = parse_link(link)? else {
        return None;
    };
    Some(escape(service)).filter(|name| is_name(name))
}

/// True for a link that starts or stops a service.
pub(in crate::config) fn is_link(path: &EntryPath, kind: Option<Kind>) -> bool {
    kind == Some(Kind::Link) && is_name_of_link(path)
}

fn is_name_of_link(path: &EntryPath) -> bool {
    path.strip(LINKS).is_some_and(|link| {
        let link = link.as_bytes();
        parse_link(link).is_some() && !link.contains(&b'/')
    })
}

/// True for what can be the name of a script in a directory.
pub(in crate::config) fn is_name(text: &str) -> bool {
    let Some(bytes) = unescape(text) else {
        return false;
    };
    // A path of one component is unchanged by being read as a path.
    !bytes.contains(&b'/') && EntryPath::new(&bytes).is_ok_and(|path| path.as_bytes() == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_service_is_enabled_by_a_start_link_and_by_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(enabled(root.path()).unwrap(), None);
        let dir = root.path().join(LINKS);
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(enabled(root.path()).unwrap(), Some(BTreeSet::new()));
        for link in [
            &b"S50firewall"[..],
            b"S19dnsmasq",
            b"K10network",
            b"S5short",
            b"S50",
            b"S50..",
            b"firewall",
            b"S95odd\xff",
            b"S95back\\slash",
        ] {
            symlink("../init.d/any", dir.join(OsStr::from_bytes(link))).unwrap();
        }
        fs::write(dir.join("S60file"), "").unwrap();
        let names = ["back\\\\slash", "dnsmasq", "firewall", "odd\\xff"];
        let names = names.map(str::to_owned).into();
        assert_eq!(enabled(root.path()).unwrap(), Some(names));
    }

    #[test]
    fn links_behind_a_link_are_none_of_this_system() {
        let root = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        symlink("/x", other.path().join("S50other")).unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink(other.path(), root.path().join(LINKS)).unwrap();
        assert_eq!(enabled(root.path()).unwrap(), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_services() {
        for (name, fine) in [
            ("firewall", true),
            ("a b", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("/a", false),
            ("\\q", false),
            ("a\0", false),
        ] {
            assert_eq!(is_name(name), fine, "{name:?}");
        }
    }
}
