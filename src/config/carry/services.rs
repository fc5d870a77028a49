//! Which services start at boot.
//!
//! `/etc/rc.d` is made of links `S50NAME` and `K10NAME` to `/etc/init.d/NAME`; the numbers are those
//! of the script and may change with it. What a user decides is whether there is an `S` link, so
//! that is what travels: names, not links.
//!
//! Stock systems have another way: the first member of a backup is a script that disables, once,
//! every service that was off. It says nothing of those that were on. Here it is written for stock
//! systems, and read where nothing better is known: [`disable_script`], [`disabled_by`]. They run
//! every script of `/etc/init.d` to find out; here scripts are read, never run.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use crate::config::carry::packages;
use crate::config::path::{escape, unescape};
use crate::config::tree::{self, Kind};
use crate::config::{ConfigError, EntryPath};
use crate::files::{self, FileError};

/// Where the links are.
pub(in crate::config) const LINKS: &str = "etc/rc.d";

/// Where the scripts are.
pub(in crate::config) const SCRIPTS: &str = "etc/init.d";

/// The script that stock systems run on the first boot with a restored configuration.
pub(in crate::config) const DISABLE_SCRIPT: &str = "etc/uci-defaults/10_disable_services";

/// The longest script of `/etc/init.d` that is looked at; they are some KiB.
const MAX_SCRIPT: u64 = 256 << 10;

/// The longest [`DISABLE_SCRIPT`] that is understood: a thousand services.
pub(in crate::config) const MAX_DISABLE_SCRIPT: u64 = 64 << 10;

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

/// The [`DISABLE_SCRIPT`] of a system; nothing if it has no services.
///
/// As stock systems see it a service is on if it has a link for its `START` and one for its `STOP`,
/// as far as it has these. One that has neither is not off.
pub(in crate::config) fn disable_script(root: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    if !root.join(SCRIPTS).is_dir() && !root.join(LINKS).is_dir() {
        return Ok(None);
    }
    let links = match files::list(&root.join(LINKS)) {
        Ok(names) => names,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let links: BTreeSet<&[u8]> = links.iter().map(|name| name.as_encoded_bytes()).collect();
    let mut text = Vec::new();
    for name in packages::names(root, SCRIPTS)? {
        if !name.starts_with(b".") && !is_on(root, &name, &links)? {
            text.extend_from_slice(&line(&name));
        }
    }
    text.extend_from_slice(SCRIPT_END);
    Ok(Some(text))
}

/// No line end after it.
const SCRIPT_END: &[u8] = b"\nexit 0";

/// The line that disables a service. Names that a shell would not take as they are get quotes; of a
/// quote in a name nothing can be made, and nobody has one.
fn line(name: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-@:,%".contains(byte);
    match name {
        _ if name.iter().all(is_plain) => [b"/etc/init.d/", name, b" disable\n"].concat(),
        _ if name.iter().any(|byte| matches!(byte, b'\'' | b'\n')) => Vec::new(),
        _ => [b"'/etc/init.d/", name, b"' disable\n"].concat(),
    }
}

/// The services that a [`DISABLE_SCRIPT`] disables, as text without loss; nothing if it does
/// anything else.
pub(in crate::config) fn disabled_by(script: &[u8]) -> Option<BTreeSet<String>> {
    let list = script.strip_suffix(b"\n").unwrap_or(script);
    let mut names = BTreeSet::new();
    for line in list.strip_suffix(SCRIPT_END)?.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let script = line.strip_suffix(b" disable")?;
        let quoted = script
            .strip_prefix(b"'")
            .and_then(|rest| rest.strip_suffix(b"'"));
        let name = quoted.unwrap_or(script).strip_prefix(b"/etc/init.d/")?;
        let name = escape(name);
        if !is_name(&name) {
            return None;
        }
        names.insert(name);
    }
    Some(names)
}

fn is_on(root: &Path, script: &[u8], links: &BTreeSet<&[u8]>) -> Result<bool, ConfigError> {
    let Some(text) = read_script(root, script)? else {
        return Ok(false); // it cannot be run, so it does not say that it is on
    };
    let service = parse_link(script).map_or(script, |(_, service)| service);
    let has = |letter: u8, setting: &[u8]| match setting {
        [] => true,
        number if number.iter().all(u8::is_ascii_digit) => {
            links.contains(&*[&[letter], number, service].concat())
        }
        // What the number is only the shell knows: any will do.
        _ => links.iter().any(|link| {
            link.first() == Some(&letter) && parse_link(link).map(|(_, name)| name) == Some(service)
        }),
    };
    let setting = |variable| setting(&text, variable).unwrap_or_default();
    Ok(has(b'S', setting(b"START")) && has(b'K', setting(b"STOP")))
}

/// The text of a script; nothing if it is no file that can be run.
fn read_script(root: &Path, name: &[u8]) -> Result<Option<Vec<u8>>, ConfigError> {
    let Ok(path) = EntryPath::new(&[SCRIPTS.as_bytes(), b"/", name].concat()) else {
        return Ok(None);
    };
    let Some(path) = tree::resolve(root, &path, true)? else {
        return Ok(None);
    };
    let node = tree::node(root, &path)?.filter(|node| node.kind == Some(Kind::File));
    if node.is_none_or(|node| node.meta.mode & 0o111 == 0) {
        return Ok(None);
    }
    let (file, _) = tree::open(root, &path)?;
    let mut text = Vec::new();
    file.take(MAX_SCRIPT)
        .read_to_end(&mut text)
        .map_err(FileError::at("read", &path.under(root)))?;
    Ok(Some(text))
}

/// What a script sets a variable to, outside of functions: at the begin of a line. The last one
/// counts.
pub(in crate::config) fn setting<'a>(text: &'a [u8], variable: &[u8]) -> Option<&'a [u8]> {
    let mut lines = text.rsplit(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(variable)?.strip_prefix(b"="))?;
    let end = value
        .iter()
        .position(|byte| matches!(byte, b';' | b'#') || byte.is_ascii_whitespace());
    let (value, _) = value.split_at_checked(end.unwrap_or(value.len()))?;
    let bare = [b"\"", b"'"].iter().find_map(|quote| {
        let bare = value.strip_prefix(*quote)?;
        bare.strip_suffix(*quote)
    });
    Some(bare.unwrap_or(value))
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

    #[test]
    fn the_script_names_every_service_that_lacks_a_link_and_runs_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(disable_script(root.path()).unwrap(), None);
        let put = |name: &str, text: &str, mode| {
            let place = root.path().join(SCRIPTS).join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, text).unwrap();
            files::set_mode(&place, mode).unwrap();
        };
        put("a-on", "START=10\nSTOP='90'\n", 0o755);
        put("b-half", "START=10\nSTOP=90\n", 0o755);
        put("c-off", "START=10\n", 0o755);
        put("d-none", "touch /tmp/ran\n", 0o755);
        put("e-not-run", "START=10\n", 0o644);
        put("f-shell", "START=$(echo 17)\n", 0o755);
        put("g-shell-off", "START=$(echo 17)\n", 0o755);
        put("h; reboot", "START=10\n", 0o755);
        put("i'", "START=10\n", 0o755);
        put("S20j", "START=20\n", 0o755);
        put("S30k", "START=30\n", 0o755);
        put(".hidden", "START=10\n", 0o755);
        let dir = root.path().join(LINKS);
        fs::create_dir_all(&dir).unwrap();
        for link in [
            "S10a-on",
            "K90a-on",
            "S10b-half",
            "S17f-shell",
            "S20j",
            "S30S30k",
        ] {
            symlink("../init.d/any", dir.join(link)).unwrap();
        }
        let script = disable_script(root.path()).unwrap().unwrap();
        let wanted = "/etc/init.d/S30k disable\n/etc/init.d/b-half disable\n\
            /etc/init.d/c-off disable\n/etc/init.d/e-not-run disable\n\
            /etc/init.d/g-shell-off disable\n'/etc/init.d/h; reboot' disable\n\nexit 0";
        assert_eq!(String::from_utf8_lossy(&script), wanted);
        let names = [
            "S30k",
            "b-half",
            "c-off",
            "e-not-run",
            "g-shell-off",
            "h; reboot",
        ];
        assert_eq!(disabled_by(&script), Some(names.map(str::to_owned).into()));
    }

    #[test]
    fn a_script_that_does_anything_else_is_not_taken_for_a_list_of_services() {
        assert_eq!(disabled_by(b"\nexit 0"), Some(BTreeSet::new()));
        for odd in [
            "",
            "exit 0",
            "reboot\n\nexit 0",
            "/etc/init.d/a enable\n\nexit 0",
            "/etc/init.d/a disable\n\nexit 1",
            "/etc/init.d/../../bin/a disable\n\nexit 0",
            "/etc/init.d/a disable\nrm -r /\n\nexit 0",
        ] {
            assert_eq!(disabled_by(odd.as_bytes()), None, "{odd}");
        }
    }
}
