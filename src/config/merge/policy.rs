//! The policy: which paths are merged, by which merger, and which are never carried.
//!
//! ```text
//! # comment
//! PATTERN [auto|keep|replace|drop] [merge=uci|text|lines|passwd|group|shadow|none]
//!         [conflict=user|new|fail] [ondelete=keep|restore] [max=BYTES] [mode=OCTAL]
//! ```
//!
//! Three sources, one after the other: the built-in file (`policy.conf`), those of the image
//! (`/lib/upgrade/policy.d/*.conf`), the user's (`/etc/sysupgrade.policy`). The last line that fits
//! a path is its whole rule: what that line leaves out has its default, not what an earlier line
//! said, so that one line can be understood without reading all others.
//!
//! A pattern begins with a slash, or with `**/`, and names a path and everything below it. `*`, `?`
//! and `[a-z]` fit within a component, as in the shell and in keep lists: they do not fit the dot
//! that begins a hidden name. A component `**` stands for any number of components, hidden ones
//! too. Words are divided by blanks: `?` fits a blank in a name.
//!
//! A line that is not understood is told and passed over, in whole: half a rule is none.

use std::str;

use serde::{Deserialize, Serialize};

use crate::config::path::{EntryPath, escape};
use crate::config::pattern;
use crate::config::report::{Line, Notice, NoticeKind};

/// Where an image has its rules, in files that end in `.conf`, in the order of their names.
pub(crate) const IMAGE_DIR: &str = "lib/upgrade/policy.d";

/// Where the user has them.
pub(crate) const USER_FILE: &str = "etc/sysupgrade.policy";

/// Policies are lines written by people and package makers: some KiB.
pub(crate) const MAX_FILE: u64 = 256 << 10;

/// True for a file of [`IMAGE_DIR`] that holds rules.
pub(crate) fn is_file_name(name: &[u8]) -> bool {
    name.ends_with(b".conf") && !name.starts_with(b".")
}

/// The most lines that are followed, of all files together. Real policies have some dozens; every
/// path is compared with every line, so this bounds what a file gone wild costs.
const MAX_RULES: usize = 4096;

/// The largest file that is merged, unless a rule says otherwise. Configuration that people write
/// is below it, and the mergers hold a file four times in memory.
pub(crate) const MAX_MERGED: u64 = 256 << 10;

/// What is done with the paths that a pattern fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// In general.
    pub(crate) disposition: Disposition,
    /// How two changes become one; `None`: as the content allows.
    pub(crate) merge: Option<Merger>,
    /// Who wins a dispute.
    pub(crate) conflict: OnConflict,
    /// What becomes of defaults that the user deleted.
    pub(crate) ondelete: OnDelete,
    /// The largest file that is merged, in bytes.
    pub(crate) max: u64,
    /// Permission bits that a file may have which comes from the user or out of a merge.
    pub(crate) mode: Option<u32>,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            disposition: Disposition::Auto,
            merge: None,
            conflict: OnConflict::User,
            ondelete: OnDelete::Keep,
            max: MAX_MERGED,
            mode: None,
        }
    }
}

/// What is done with a path in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Three-way decision.
    Auto,
    /// The user's, always.
    Keep,
    /// The image's, always; the user's changes are set aside.
    Replace,
    /// The image's, always; nothing of the user's is worth setting aside.
    Drop,
}

/// How two changes of a file become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Merger {
    Uci,
    Text,
    Lines,
    Passwd,
    Group,
    Shadow,
    /// They do not.
    #[serde(rename = "none")]
    Never,
}

/// Who wins a dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnConflict {
    /// The user.
    User,
    /// The image.
    New,
    /// Nobody: the upgrade is refused.
    Fail,
}

/// What becomes of a default that the user deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDelete {
    /// It stays deleted.
    Keep,
    /// It comes back.
    Restore,
}

/// Rules for paths, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    rules: Vec<(Pattern, Rule)>,
}

impl Policy {
    /// The rules that hold for every image.
    pub(crate) fn built_in() -> Self {
        let mut policy = Self::default();
        let odd = policy.append(include_bytes!("policy.conf"), "");
        debug_assert!(odd.is_empty(), "{odd:?}");
        policy
    }

    /// Adds the rules of a file after the others. Told are the lines that were not understood, each
    /// with the first word that was not; `file` is the name they are told with.
    pub(crate) fn append(&mut self, text: &[u8], file: &str) -> Vec<Notice> {
        let mut odd = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let mut notice = |kind, word| {
                odd.push(Notice {
                    line: Some(Line {
                        file: file.to_owned(),
                        number,
                        text: escape(line.trim_ascii()),
                    }),
                    ..Notice::new(kind, escape(word))
                });
            };
            match rule(line) {
                Ok(None) => {}
                Ok(Some(rule)) if self.rules.len() < MAX_RULES => self.rules.push(rule),
                Ok(Some(_)) => {
                    notice(NoticeKind::PolicyTooLong, line.trim_ascii());
                    break;
                }
                Err(word) => notice(NoticeKind::PolicyLine, word),
            }
        }
        odd
    }

    /// The rule for a path: that of the last line that fits it.
    pub(crate) fn of(&self, path: &EntryPath) -> Rule {
        let path: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').collect();
        let last = self.rules.iter().rfind(|(pattern, _)| pattern.fits(&path));
        last.map_or_else(Rule::default, |(_, rule)| *rule)
    }
}

/// Reads a line; nothing if it says nothing. The error is the word that is not understood.
fn rule(line: &[u8]) -> Result<Option<(Pattern, Rule)>, &[u8]> {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .take_while(|word| !word.starts_with(b"#"));
    let Some(pattern) = words.next() else {
        return Ok(None);
    };
    let pattern = Pattern::new(pattern).ok_or(pattern)?;
    let mut rule = Rule::default();
    let mut said: Vec<&[u8]> = Vec::new();
    for word in words {
        let key = apply(&mut rule, word).ok_or(word)?;
        if said.contains(&key) {
            return Err(word);
        }
        said.push(key);
    }
    Ok(Some((pattern, rule)))
}

/// Does to a rule what a word says; the key under which it may be said once.
fn apply<'a>(rule: &mut Rule, word: &'a [u8]) -> Option<&'a [u8]> {
    let Some(equals) = word.iter().position(|byte| *byte == b'=') else {
        rule.disposition = match word {
            b"auto" => Disposition::Auto,
            b"keep" => Disposition::Keep,
            b"replace" => Disposition::Replace,
            b"drop" => Disposition::Drop,
            _ => return None,
        };
        return Some(b"");
    };
    let (key, value) = word.split_at_checked(equals)?;
    let value = value.strip_prefix(b"=")?;
    match key {
        b"merge" => {
            rule.merge = Some(match value {
                b"uci" => Merger::Uci,
                b"text" => Merger::Text,
                b"lines" => Merger::Lines,
                b"passwd" => Merger::Passwd,
                b"group" => Merger::Group,
                b"shadow" => Merger::Shadow,
                b"none" => Merger::Never,
                _ => return None,
            });
        }
        b"conflict" => {
            rule.conflict = match value {
                b"user" => OnConflict::User,
                b"new" => OnConflict::New,
                b"fail" => OnConflict::Fail,
                _ => return None,
            };
        }
        b"ondelete" => {
            rule.ondelete = match value {
                b"keep" => OnDelete::Keep,
                b"restore" => OnDelete::Restore,
                _ => return None,
            };
        }
        b"max" => rule.max = number(value, 10)?,
        b"mode" => {
            let mode = u32::try_from(number(value, 8)?).ok()?;
            rule.mode = Some(mode).filter(|mode| *mode <= 0o7777);
            rule.mode?;
        }
        _ => return None,
    }
    Some(key)
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let digits = str::from_utf8(digits).ok()?;
    // A sign is none of our digits, though std takes one.
    let plain = digits.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)
}

/// A pattern for paths.
#[derive(Clone, Debug)]
struct Pattern(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    /// Fits one component.
    One(Box<[u8]>),
    /// `**`: fits any number of components.
    Any,
}

impl Pattern {
    fn new(text: &[u8]) -> Option<Self> {
        if !text.starts_with(b"/") && !text.starts_with(b"**/") {
            return None;
        }
        let mut parts = Vec::new();
        for component in text.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return None,
                b"**" => parts.push(Part::Any),
                // Does it cross components or not? Nobody should have to guess.
                part if part.windows(2).any(|pair| pair == b"**") => return None,
                part => parts.push(Part::One(part.into())),
            }
        }
        Some(Self(parts))
    }

    /// True if the path is named, or lies below something that is.
    ///
    /// After a `**`, only the shortest run of components that lets the rest fit needs to be tried:
    /// the time is proportional to the product of the two lengths at most.
    fn fits(&self, path: &[&[u8]]) -> bool {
        let (mut at, mut from) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            let fits = match (self.0.get(at), path.get(from)) {
                // What is left of the path lies below.
                (None, _) => return true,
                (Some(Part::Any), _) => {
                    at += 1;
                    star = Some((at, from));
                    continue;
                }
                (Some(Part::One(part)), Some(name)) => pattern::matches(part, name),
                (Some(Part::One(_)), None) => return false,
            };
            if fits {
                (at, from) = (at + 1, from + 1);
            } else {
                let Some((after, start)) = star else {
                    return false;
                };
                star = Some((after, start + 1));
                (at, from) = (after, start + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(policy: &Policy, path: &[u8]) -> Rule {
        policy.of(&EntryPath::new(path).unwrap())
    }

    fn rule(text: &str) -> Rule {
        let mut policy = Policy::default();
        assert_eq!(policy.append(text.as_bytes(), "x"), []);
        of(&policy, b"etc/x")
    }

    #[test]
    fn each_word_says_what_it_says() {
        let default = Rule::default();
        let with = |change: fn(&mut Rule)| {
            let mut rule = default;
            change(&mut rule);
            rule
        };
        for (text, wanted) in [
            ("/etc/x", default),
            ("/etc/x auto", default),
            ("/etc/x keep", with(|r| r.disposition = Disposition::Keep)),
            (
                "/etc/x replace",
                with(|r| r.disposition = Disposition::Replace),
            ),
            ("/etc/x drop", with(|r| r.disposition = Disposition::Drop)),
            ("/etc/x merge=uci", with(|r| r.merge = Some(Merger::Uci))),
            ("/etc/x merge=text", with(|r| r.merge = Some(Merger::Text))),
            (
                "/etc/x merge=lines",
                with(|r| r.merge = Some(Merger::Lines)),
            ),
            (
                "/etc/x merge=passwd",
                with(|r| r.merge = Some(Merger::Passwd)),
            ),
            (
                "/etc/x merge=group",
                with(|r| r.merge = Some(Merger::Group)),
            ),
            (
                "/etc/x merge=shadow",
                with(|r| r.merge = Some(Merger::Shadow)),
            ),
            ("/etc/x merge=none", with(|r| r.merge = Some(Merger::Never))),
            ("/etc/x conflict=user", default),
            (
                "/etc/x conflict=new",
                with(|r| r.conflict = OnConflict::New),
            ),
            (
                "/etc/x conflict=fail",
                with(|r| r.conflict = OnConflict::Fail),
            ),
            ("/etc/x ondelete=keep", default),
            (
                "/etc/x ondelete=restore",
                with(|r| r.ondelete = OnDelete::Restore),
            ),
            ("/etc/x max=8589934592", with(|r| r.max = 8 << 30)),
            ("/etc/x mode=0640", with(|r| r.mode = Some(0o640))),
            (
                " \t/etc/x\tmode=7  keep \r",
                with(|r| {
                    r.mode = Some(7);
                    r.disposition = Disposition::Keep;
                }),
            ),
            (
                "# a comment\n\n/etc/x keep # because\n# /etc/x drop",
                with(|r| r.disposition = Disposition::Keep),
            ),
        ] {
            assert_eq!(rule(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_last_line_that_fits_is_the_whole_rule() {
        let rule = rule("/etc keep mode=0600\n/etc/x merge=text\n/etc/y drop");
        assert_eq!(
            rule,
            Rule {
                merge: Some(Merger::Text),
                ..Rule::default()
            }
        );
    }

    #[test]
    fn a_file_comes_after_the_files_before_it() {
        let mut policy = Policy::built_in();
        assert_eq!(
            of(&policy, b"etc/dropbear/x").disposition,
            Disposition::Keep
        );
        policy.append(b"/etc/dropbear replace", "image");
        policy.append(b"/etc/dropbear/x drop", "user");
        for (path, wanted) in [
            (&b"etc/dropbear/x"[..], Disposition::Drop),
            (b"etc/dropbear/y", Disposition::Replace),
        ] {
            assert_eq!(of(&policy, path).disposition, wanted);
        }
    }

    #[test]
    fn patterns_fit_paths_and_all_that_is_below() {
        for (pattern, path, fits) in [
            ("/etc/x", "etc/x", true),
            ("/etc/x", "etc/x/y/z", true),
            ("/etc/x", "etc/xy", false),
            ("/etc/x", "etc", false),
            ("/etc/x", "usr/etc/x", false),
            ("/etc/x/", "etc/x", true),
            ("/etc/x/", "etc/x/y", true),
            ("//etc/./x", "etc/x", true),
            ("/", "etc/x", true),
            ("/etc/*", "etc/x", true),
            ("/etc/*", "etc/x/y", true),
            ("/etc/*", "etc", false),
            ("/etc/*/y", "etc/x/y", true),
            ("/etc/*/y", "etc/y", false),
            ("/etc/*/y", "etc/x/x/y", false),
            ("/etc/*_key", "etc/host_key", true),
            ("/etc/*_key", "etc/host_key.pub", false),
            ("/etc/?[a-c]", "etc/xb", true),
            (r"/etc/\*", "etc/*", true),
            (r"/etc/\*", "etc/x", false),
            // Hidden names.
            ("/etc/*", "etc/.x", false),
            ("/etc/.*", "etc/.x", true),
            ("/etc", "etc/.x", true),
            ("/etc/**", "etc/.x", true),
            ("/etc/**/y", "etc/.x/y", true),
            // Across.
            ("**/y", "y", true),
            ("**/y", "etc/x/y", true),
            ("**/y", "etc/x/y/z", true),
            ("**/y", "etc/yy", false),
            ("/**/y", "etc/y", true),
            ("/etc/**/y", "etc/y", true),
            ("/etc/**/y", "etc/a/b/c/y", true),
            ("/etc/**/y", "usr/y", false),
            ("/etc/**", "etc/a/b", true),
            ("/a/**/b/c", "a/b/b/b/c", true),
            ("/a/**/b/**/c", "a/x/b/y/z/c", true),
            ("/a/**/b/**/c", "a/x/c/b", false),
            ("**/*-opkg", "etc/config/network-opkg", true),
        ] {
            let pattern = Pattern::new(pattern.as_bytes()).unwrap();
            let path: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            assert_eq!(pattern.fits(&path), fits, "{pattern:?} {path:?}");
        }
    }

    #[test]
    fn paths_are_bytes() {
        let mut policy = Policy::default();
        assert_eq!(policy.append(b"/etc/\xff* keep", "x"), []);
        assert_eq!(of(&policy, b"etc/\xff\xfe").disposition, Disposition::Keep);
    }

    #[test]
    fn a_line_that_is_not_understood_is_told_and_passed_over_in_whole() {
        for (line, word) in [
            ("etc/x keep", "etc/x"),
            ("*.bak drop", "*.bak"),
            ("/etc/../x keep", "/etc/../x"),
            ("/etc/x**y keep", "/etc/x**y"),
            ("/etc/x Keep", "Keep"),
            ("/etc/x keep drop", "drop"),
            ("/etc/x keep keep", "keep"),
            ("/etc/x mode=600 mode=600", "mode=600"),
            ("/etc/x keep merge=ini", "merge=ini"),
            ("/etc/x keep merge=", "merge="),
            ("/etc/x keep merge", "merge"),
            ("/etc/x keep conflict=mine", "conflict=mine"),
            ("/etc/x keep ondelete=no", "ondelete=no"),
            ("/etc/x keep max=1k", "max=1k"),
            ("/etc/x keep max=+1", "max=+1"),
            ("/etc/x keep max=", "max="),
            (
                "/etc/x keep max=18446744073709551616",
                "max=18446744073709551616",
            ),
            ("/etc/x keep mode=0800", "mode=0800"),
            ("/etc/x keep mode=10000", "mode=10000"),
            ("/etc/x keep mode=40000000000", "mode=40000000000"),
            ("/etc/x keep =", "="),
            ("\u{feff}/etc/x keep", "\u{feff}/etc/x"),
        ] {
            let mut policy = Policy::default();
            let text = format!("/etc/y drop\n {line}\r\n/etc/z drop\n");
            let odd = policy.append(text.as_bytes(), "etc/sysupgrade.policy");
            let wanted = Notice {
                line: Some(Line {
                    file: "etc/sysupgrade.policy".to_owned(),
                    number: 2,
                    text: line.to_owned(),
                }),
                ..Notice::new(NoticeKind::PolicyLine, word)
            };
            assert_eq!(odd, [wanted]);
            assert_eq!(of(&policy, b"etc/x"), Rule::default(), "{line}");
            assert_eq!(of(&policy, b"etc/z").disposition, Disposition::Drop);
        }
    }

    #[test]
    fn a_policy_gone_wild_is_told_once_and_followed_up_to_the_bound() {
        let mut policy = Policy::default();
        let text = "/etc/x keep\n".repeat(MAX_RULES + 100);
        let odd = policy.append(text.as_bytes(), "x");
        let kinds: Vec<_> = odd.iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, [NoticeKind::PolicyTooLong]);
        assert_eq!(policy.rules.len(), MAX_RULES);
    }

    #[test]
    fn the_built_in_policy_is_understood_and_says_what_it_should() {
        let mut policy = Policy::default();
        assert_eq!(policy.append(include_bytes!("policy.conf"), "x"), []);
        let policy = Policy::built_in();
        let uci = of(&policy, b"etc/config/network");
        assert_eq!(uci.merge, Some(Merger::Uci));
        let shadow = of(&policy, b"etc/shadow");
        assert_eq!(shadow.merge, Some(Merger::Shadow));
        assert_eq!(
            (shadow.ondelete, shadow.mode),
            (OnDelete::Restore, Some(0o600))
        );
        let key = of(&policy, b"etc/dropbear/dropbear_rsa_host_key");
        assert_eq!(
            (key.disposition, key.mode),
            (Disposition::Keep, Some(0o600))
        );
        for dropped in [
            "etc/sysupgrade/state.json",
            "etc/uci-defaults/09_fix",
            "etc/config/network-opkg",
            "etc/apk/world",
        ] {
            let rule = of(&policy, dropped.as_bytes());
            assert_eq!(rule.disposition, Disposition::Drop, "{dropped}");
        }
        assert_eq!(of(&policy, b"etc/rc.local"), Rule::default());
    }
}
