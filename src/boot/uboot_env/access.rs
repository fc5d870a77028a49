//! Variables that U-Boot lets nobody change: nor do we, behind its back.
//!
//! ```text
//! .flags=name[:type[access]],name[:type[access]],...
//! ```
//!
//! | access | meaning (env/flags.c of U-Boot, "Flags" in its README) |
//! | --- | --- |
//! | `a`, or none | anybody may change it |
//! | `r` | read-only |
//! | `o` | write-once: it may be set while it has no value |
//! | `c` | it may be changed as long as it has its default value, which nobody here knows: as `o` |
//!
//! Without an entry of their own `serial#` and `ethaddr`, `eth1addr` and so on are write-once, as they are
//! in a U-Boot that is built without `CONFIG_ENV_OVERWRITE`.
//!
//! A name in `.flags` may be a regular expression. Of one that begins as a variable does it is taken that
//! it means that variable: to refuse too much here costs a line in a board file, too little a MAC address.

use std::collections::HashSet;

use super::Environment;

/// Who may change a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Anybody,
    Once,
    Nobody,
}

impl Access {
    /// To the variable of this name.
    pub(super) fn of(environment: &Environment, name: &[u8]) -> Self {
        let list = environment.get(".flags").unwrap_or_default();
        let entries = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let said = entries.filter_map(|entry| {
            let colon = entry.iter().rposition(|byte| *byte == b':');
            let (pattern, attributes) = entry.split_at(colon.unwrap_or(entry.len()));
            may_mean(pattern, name).then(|| match attributes.get(2) {
                Some(b'r') => Self::Nobody,
                Some(b'o' | b'c') => Self::Once,
                _ => Self::Anybody,
            })
        });
        said.max().unwrap_or(match is_identity(name) {
            true => Self::Once,
            false => Self::Anybody,
        })
    }

    /// What it is called.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Anybody => "free",
            Self::Once => "write-once",
            Self::Nobody => "read-only",
        }
    }
}

/// The first variable that differs between two environments and may not.
pub(super) fn forbidden(old: &Environment, new: &Environment) -> Option<(Vec<u8>, Access)> {
    let [before, after]: [HashSet<&[u8]>; 2] = [old, new].map(|env| env.entries().collect());
    let changed = before.symmetric_difference(&after);
    let names = changed.filter_map(|entry| entry.split(|byte| *byte == b'=').next());
    names
        .map(|name| (name, Access::of(old, name)))
        .filter(|(name, access)| match access {
            Access::Anybody => false,
            Access::Once => old.get(name).is_some() && old.get(name) != new.get(name),
            Access::Nobody => old.get(name) != new.get(name),
        })
        .min()
        .map(|(name, access)| (name.to_vec(), access))
}

/// True if a name of `.flags` is this one, or a regular expression that could mean it.
fn may_mean(pattern: &[u8], name: &[u8]) -> bool {
    let is_special = |byte: &u8| br"\^$.|?*+()[]".contains(byte);
    match pattern.iter().position(is_special) {
        None => pattern == name,
        Some(at) => {
            // What `?` and `*` follow need not be there.
            let optional = usize::from(matches!(pattern[at], b'?' | b'*'));
            name.starts_with(&pattern[..at.saturating_sub(optional)])
        }
    }
}

/// True for what tells one router from another.
fn is_identity(name: &[u8]) -> bool {
    let number = name.strip_prefix(b"eth");
    let number = number.and_then(|rest| rest.strip_suffix(b"addr"));
    name == b"serial#" || number.is_some_and(|number| number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(flags: &str, name: &str) -> Access {
        let mut environment = Environment::default();
        environment.set(".flags", flags);
        Access::of(&environment, name.as_bytes())
    }

    #[test]
    fn the_second_letter_says_who_may_change_a_variable() {
        let flags = "a:sr, b:so ,c:xc,d:da,e:m,f,g:";
        for (name, expected) in [
            ("a", Access::Nobody),
            ("b", Access::Once),
            ("c", Access::Once),
            ("d", Access::Anybody),
            ("e", Access::Anybody),
            ("f", Access::Anybody),
            ("g", Access::Anybody),
            ("h", Access::Anybody),
            ("aa", Access::Anybody),
        ] {
            assert_eq!(access(flags, name), expected, "{name}");
        }
    }

    #[test]
    fn a_regular_expression_means_all_that_begins_as_it_does() {
        for (flags, name, expected) in [
            (r"wlan\d*addr:mo", "wlan0addr", Access::Once),
            (r"wlan\d*addr:mo", "wan", Access::Anybody),
            ("ab*c:sr", "ac", Access::Nobody),
            (".*:sr", "anything", Access::Nobody),
            (r"a\:b:sr", "a:b", Access::Nobody),
        ] {
            assert_eq!(access(flags, name), expected, "{flags} {name}");
        }
    }

    #[test]
    fn what_tells_one_router_from_another_is_write_once_unless_flags_say_otherwise() {
        for name in ["ethaddr", "eth0addr", "eth12addr", "serial#"] {
            assert_eq!(access("other:so", name), Access::Once, "{name}");
            assert_eq!(access(&format!("{name}:sa"), name), Access::Anybody);
        }
        for name in ["ethact", "ethxaddr", "serial", "myethaddr"] {
            assert_eq!(access("", name), Access::Anybody, "{name}");
        }
    }
}
