//! Two versions of a file side by side, as far as they may be shown.
//!
//! Differences are printed, pasted into mails and shown on web pages. What must not be read there is
//! named and never shown:
//!
//! * Values of secret options of UCI packages are masked; a package that cannot be read is not shown
//!   at all, since nobody knows where its secrets are.
//! * Password fields of passwd and group are masked, files of hashes (shadow) are not shown.
//! * Files that only their owner may read, and files that the policy says are the user's own (keys),
//!   are not shown. A policy that says `mode=` of a path knows that it is private, and that it is
//!   configuration: crontabs are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::engine::{self, Outcome};
use super::merge::hints::Hints;
use super::merge::policy::{Disposition, Merger, Policy};
use super::merge::text::unified;
use super::report::{ConflictKind, Report, ReportEntry};
use super::tree::{self, Content, Entry, Tree};
use super::uci::{Opt, Package, Section, Value};
use super::{ConfigError, EntryPath};
use crate::config::apply::build::CONFLICTS;
use crate::config::carry::scope;
use crate::files;

/// The largest file that is compared line by line.
const MAX_SHOWN: u64 = 256 << 10;

/// What stands for a secret, and for one that is not the one before.
const SECRET: &[u8] = b"(secret)";
const ANOTHER: &[u8] = b"(another secret)";

/// The most secrets of a package that are looked for in its comments; a package with more is shown
/// without comments.
const MAX_SECRETS: usize = 64;

/// How two versions of a file differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A unified diff; empty if nothing that may be shown differs.
    Lines(String),
    /// It is not shown, for this reason.
    Withheld(&'static str),
}

/// A version of a file: the tree that has it, and what people call it.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) tree: &'a Tree,
    pub(super) name: &'a str,
}

/// The difference of a path in two trees.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn between(
    policy: &Policy,
    path: &EntryPath,
    from: Side,
    to: Side,
) -> files::Result<Difference> {
    let rule = policy.of(path);
    let entries = [from, to].map(|side| side.tree.get(path));
    let is_file = |content: &Content| matches!(content, Content::File { .. });
    let files = entries.iter().flatten();
    let mut files = files.filter(|entry| is_file(&entry.content));
    let private = files.any(|entry| entry.meta.mode & 0o077 == 0);
    let withheld = |why| Ok(Difference::Withheld(why));
    if rule.merge == Some(Merger::Shadow) || is_shadow(path) {
        return withheld("it holds password hashes");
    }
    if rule.disposition == Disposition::Keep {
        return withheld("the policy says that it is yours alone");
    }
    let is_uci = rule.merge == Some(Merger::Uci);
    if private && !is_uci && rule.mode.is_none() {
        return withheld("only its owner may read it");
    }
    let (Some(old), Some(new)) = (text(from.tree, path)?, text(to.tree, path)?) else {
        return withheld("it is too large");
    };
    let masked = match rule.merge {
        Some(Merger::Uci) => mask_packages(&old, &new),
        Some(Merger::Passwd | Merger::Group) => Some([old, new].map(|text| mask_accounts(&text))),
        _ => Some([old, new]),
    };
    let Some([old, new]) = masked else {
        return withheld("it cannot be read as UCI, and may hold secrets");
    };
    if old.contains(&0) || new.contains(&0) {
        return withheld("it is no text");
    }
    let name = |side: Side| match side.tree.get(path) {
        Some(_) => side.name.to_owned(),
        None => "/dev/null".to_owned(),
    };
    let diff = unified(&old, &new, &name(from), &name(to));
    Ok(Difference::Lines(diff))
}

/// What a version is in lines: of a link, where it leads; nothing if it is too large.
fn text(tree: &Tree, path: &EntryPath) -> files::Result<Option<Vec<u8>>> {
    match tree.get(path).map(|entry| &entry.content) {
        Some(Content::File { .. }) => tree.bytes(path, MAX_SHOWN),
        Some(Content::Link { target }) => Ok(Some([b"link to ", &**target, b"\n"].concat())),
        Some(Content::Dir) => Ok(Some(b"a directory\n".to_vec())),
        None => Ok(Some(Vec::new())),
    }
}

/// shadow and gshadow, and the copies that account tools leave beside them.
fn is_shadow(path: &EntryPath) -> bool {
    let name = path.as_bytes().rsplit(|byte| *byte == b'/').next();
    let name = name.unwrap_or_default();
    let name = name.strip_prefix(b"g").unwrap_or(name);
    name.starts_with(b"shadow")
}

/// The second field of each line, unless it only says that the password is elsewhere or none.
fn mask_accounts(text: &[u8]) -> Vec<u8> {
    let mask = |line: &[u8]| {
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        if let Some(password) = fields.get_mut(1)
            && !matches!(*password, b"" | b"x" | b"*" | b"!")
        {
            *password = SECRET;
        }
        fields.join(&b':')
    };
    let lines: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(mask).collect();
    lines.join(&b'\n')
}

/// Two versions of a package without their secrets; nothing if one is no package.
fn mask_packages(old: &[u8], new: &[u8]) -> Option<[Vec<u8>; 2]> {
    let packages = [Package::parse(old).ok()?, Package::parse(new).ok()?];
    let [old, new] = &packages;
    let known = secrets(old);
    let mut masked = [mask(old, &BTreeSet::new()), mask(new, &known)];
    let told = |(package, masked)| tells_a_secret(package, masked);
    if packages.iter().zip(&masked).any(told) {
        // Somebody has noted a password in a comment.
        masked = masked.map(without_comments);
    }
    Some(masked.map(|package| package.print()))
}

/// An option and one of its values.
type Secret<'p> = (&'p [u8], &'p [u8]);

/// Every secret of a package.
fn secrets(package: &Package) -> BTreeSet<Secret<'_>> {
    let options = package.sections.iter().flat_map(|section| &section.options);
    let secret = options.filter(|option| Hints::built_in().is_secret(&option.name));
    secret
        .flat_map(|option| values(option).map(|value| (&*option.name, value)))
        .collect()
}

fn values(option: &Opt) -> impl Iterator<Item = &[u8]> {
    let values = match &option.value {
        Value::One(value) => std::slice::from_ref(value),
        Value::List(items) => items,
    };
    values.iter().map(Vec::as_slice)
}

/// A package in which each secret is masked. If some of that option are known, one that is not among
/// them is another.
fn mask(package: &Package, known: &BTreeSet<Secret>) -> Package {
    let known_options: BTreeSet<&[u8]> = known.iter().map(|(option, _)| *option).collect();
    let mask = |option: &[u8], value: &[u8]| {
        let is_another = known_options.contains(option) && !known.contains(&(option, value));
        if is_another { ANOTHER } else { SECRET }.to_vec()
    };
    let mut masked = package.clone();
    let sections = masked.sections.iter_mut();
    for Opt { name, value, .. } in sections.flat_map(|section| &mut section.options) {
        if Hints::built_in().is_secret(name) {
            *value = match value {
                Value::One(value) => Value::One(mask(name, value)),
                Value::List(items) => {
                    Value::List(items.iter().map(|item| mask(name, item)).collect())
                }
            };
        }
    }
    masked
}

/// True if the text of a masked package still tells a secret, or may do so.
fn tells_a_secret(package: &Package, masked: &Package) -> bool {
    let found = secrets(package);
    let text = masked.print();
    found.len() > MAX_SECRETS
        || found.iter().any(|(_, secret)| contains(&text, secret))
        || (masked.comments().iter()).any(|comment| names_a_secret(comment))
}

/// Only a package that was read from a text has comments.
fn without_comments(package: Package) -> Package {
    let mut bare = Package::default();
    for section in package.sections {
        let mut copy = Section::new(&section.kind, section.name.as_deref());
        let options = section.options.into_iter();
        copy.options
            .extend(options.map(|option| Opt::new(&option.name, option.value)));
        bare.sections.push(copy);
    }
    bare
}

/// True for a comment like `option key 'hunter2'`.
fn names_a_secret(comment: &[u8]) -> bool {
    let words = comment.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    let mut words = words.filter(|word| !word.is_empty());
    words.any(|word| Hints::built_in().is_secret(word))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

/// Of disputed files: what the user changed, and what the image changed.
pub type Differences = BTreeMap<EntryPath, [Difference; 2]>;

/// For each whole file over which user and image disagree and nobody has decided, in an outcome that
/// was not applied yet.
///
/// # Errors
/// When a file cannot be read.
pub fn of_outcome(outcome: &Outcome, new: &Tree) -> Result<Differences, ConfigError> {
    let policy = engine::policy(new, &outcome.user, &mut Vec::new())?;
    let versions = [&outcome.base, &outcome.user, new];
    let disputed = outcome
        .merge
        .entries
        .iter()
        .filter(|entry| is_disputed(entry));
    let paths = disputed.map(|entry| &entry.path);
    Ok(of_versions(&policy, paths, versions)?)
}

/// The same for an upgrade that is done, from what the system below `root` has kept of it.
///
/// # Errors
/// When a file cannot be read.
pub fn of_report(root: &Path, number: u32, report: &Report) -> Result<Differences, ConfigError> {
    let (policy, _) = scope::policy(root)?;
    let kept = root.join(CONFLICTS).join(format!("{number:05}"));
    let disputed = report.entries.iter().filter(|entry| is_disputed(entry));
    let paths: Vec<&EntryPath> = disputed.map(|entry| &entry.path).collect();
    let mut versions = [Tree::default(), Tree::default(), Tree::default()];
    for path in &paths {
        // What is kept is private, whatever it was: its permissions today tell.
        let today = tree::node(root, path)?.map(|node| node.meta);
        for (tree, version) in versions.iter_mut().zip(["default", "user", "new"]) {
            let name = [path.as_bytes(), b".", version.as_bytes()].concat();
            let Ok(name) = EntryPath::new(&name) else {
                continue;
            };
            if let Some(entry) = tree::entry(&kept, &name)? {
                let meta = today.unwrap_or(entry.meta);
                let entry = Entry { meta, ..entry };
                tree.insert((*path).clone(), entry, &name.under(&kept), 0);
            }
        }
    }
    Ok(of_versions(
        &policy,
        paths.into_iter(),
        versions.each_ref(),
    )?)
}

/// True if a dispute about all of it is open.
fn is_disputed(entry: &ReportEntry) -> bool {
    entry.conflicts.iter().any(|conflict| {
        conflict.locus.is_none() && !conflict.decided && conflict.kind != ConflictKind::Mode
    })
}

fn of_versions<'p>(
    policy: &Policy,
    paths: impl Iterator<Item = &'p EntryPath>,
    [base, user, new]: [&Tree; 3],
) -> files::Result<Differences> {
    let side = |tree, name| Side { tree, name };
    let base = side(base, "default");
    let mut differences = Differences::new();
    for path in paths {
        let of_user = between(policy, path, base, side(user, "yours"))?;
        let of_image = between(policy, path, base, side(new, "new"))?;
        differences.insert(path.clone(), [of_user, of_image]);
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::Meta;

    fn tree(path: &str, text: &str, mode: u32) -> Tree {
        let mut tree = Tree::default();
        let path = EntryPath::new(path.as_bytes()).unwrap();
        let (uid, gid) = (0, 0);
        tree.put(&path, text.as_bytes(), Meta { mode, uid, gid });
        tree
    }

    fn shown_with(
        path: &str,
        [from, to]: [Option<&str>; 2],
        mode: u32,
        policy: &str,
    ) -> Difference {
        let mut rules = Policy::built_in();
        assert_eq!(rules.append(policy.as_bytes(), "x"), []);
        let of =
            |text: Option<&str>| text.map_or_else(Tree::default, |text| tree(path, text, mode));
        let (from, to) = (of(from), of(to));
        let path = EntryPath::new(path.as_bytes()).unwrap();
        let from = Side {
            tree: &from,
            name: "old",
        };
        let to = Side {
            tree: &to,
            name: "new",
        };
        between(&rules, &path, from, to).unwrap()
    }

    fn shown(path: &str, from: &str, to: &str) -> Difference {
        shown_with(path, [Some(from), Some(to)], 0o644, "")
    }

    fn lines(difference: Difference) -> String {
        match difference {
            Difference::Lines(lines) => lines,
            Difference::Withheld(why) => panic!("withheld: {why}"),
        }
    }

    #[test]
    fn text_is_shown_as_a_unified_diff() {
        assert_eq!(
            lines(shown("etc/rc.local", "a\nb\n", "a\nc\n")),
            "--- old\n+++ new\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
        );
        let added = shown_with("etc/motd", [None, Some("hi\n")], 0o644, "");
        assert_eq!(lines(added), "--- /dev/null\n+++ new\n@@ -0,0 +1 @@\n+hi\n");
    }

    #[test]
    fn a_secret_of_a_package_is_masked_and_its_change_can_be_seen() {
        let package = |key: &str, ssid: &str| {
            format!("config wifi-iface 'w'\n\toption ssid '{ssid}'\n\toption key '{key}'\n")
        };
        let same = lines(shown(
            "etc/config/wireless",
            &package("hunter2", "home"),
            &package("hunter2", "away"),
        ));
        assert!(same.contains("+\toption ssid 'away'"), "{same}");
        assert!(same.contains(" \toption key '(secret)'"), "{same}");
        let changed = lines(shown(
            "etc/config/wireless",
            &package("hunter2", "home"),
            &package("correct horse", "home"),
        ));
        assert!(changed.contains("-\toption key '(secret)'"), "{changed}");
        assert!(
            changed.contains("+\toption key '(another secret)'"),
            "{changed}"
        );
    }

    #[test]
    fn no_way_of_writing_a_secret_down_shows_it() {
        for text in [
            "config a 'x'\n\toption key hunter2\n",
            "config a 'x'\n\toption key 'old-hunter2'\n\toption key 'hunter2'\n",
            "config a 'x'\n\toption key hunt'er2'\n\toption b '1'\n",
            "config a 'x'\n\tlist password 'hunter2'\n\tlist password 'old-hunter2'\n",
            "config a 'x'\n\toption b '1'\nconfig a 'x'\n\toption key 'hunter2'\n",
            "config a 'x'\n\toption psk \"hunt\\er2\"\n",
            "config a 'x'\n\toption b '1'\n\t# option key hunter2\n",
            "# the password is hunter2\nconfig a 'x'\n\toption key 'hunter2'\n",
            "config a 'x'\n\toption b '1' # key: hunter2\n",
            "config a 'x'\n\toption key 'hunter2' # or was it old-hunter2?\n",
        ] {
            for path in ["etc/config/x", "etc/config/x.bak"] {
                for sides in [
                    [Some(text), None],
                    [None, Some(text)],
                    [Some(text), Some("")],
                ] {
                    let found = format!("{:?}", shown_with(path, sides, 0o644, ""));
                    assert!(!found.contains("er2"), "{text}: {found}");
                }
            }
        }
    }

    #[test]
    fn a_package_that_cannot_be_read_is_not_shown() {
        let broken = "config a 'x'\n\toption key 'hunter2\n";
        let found = shown("etc/config/wireless", "", broken);
        assert!(matches!(found, Difference::Withheld(_)), "{found:?}");
    }

    #[test]
    fn files_of_hashes_and_private_files_are_named_only() {
        for (path, mode, policy, is_shown) in [
            ("etc/shadow", 0o644, "", false),
            ("etc/shadow-", 0o644, "", false),
            ("etc/gshadow", 0o644, "/etc/gshadow merge=text", false),
            ("etc/dropbear/x", 0o644, "", false),
            ("etc/my.key", 0o600, "", false),
            ("etc/my.sh", 0o700, "", false),
            ("etc/my.key", 0o640, "", true),
            ("etc/my.key", 0o600, "/etc/my.key mode=0600", true),
            ("etc/crontabs/root", 0o600, "", true),
            ("etc/config/x", 0o600, "", true),
            ("etc/config/x", 0o600, "/etc/config/x keep", false),
        ] {
            let sides = [Some("config a\n"), Some("config b\n")];
            let found = shown_with(path, sides, mode, policy);
            let lines = matches!(found, Difference::Lines(_));
            assert_eq!(lines, is_shown, "{path} {mode:o}: {found:?}");
        }
    }

    #[test]
    fn a_hash_in_passwd_is_masked() {
        let found = lines(shown(
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\n",
            "root:$1$abc:0:0::/root:/bin/sh\nodd line\n",
        ));
        assert!(found.contains("+root:(secret):0:0::/root:"), "{found}");
        assert!(found.contains("-root:x:0:0::/:"), "{found}");
        assert!(found.contains("+odd line"), "{found}");
    }

    #[test]
    fn what_is_no_text_or_too_large_is_named_only() {
        let large = "x".repeat(300 << 10);
        for text in ["a\0b", &large] {
            let found = shown("etc/x", "", text);
            assert!(matches!(found, Difference::Withheld(_)), "{found:?}");
        }
    }
}
