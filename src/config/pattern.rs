//! Shell patterns for file names: `*`, `?`, `[a-z]`, `[!a]`, and a backslash that takes a
//! character as it is. Bytewise; a slash never matches, since patterns are matched a component
//! at a time.

/// True if the word holds a character that makes it a pattern.
pub(super) fn is_pattern(word: &[u8]) -> bool {
    word.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// True if `name` fits `pattern`. As in a shell, only a pattern that begins with a dot fits a
/// hidden name.
///
/// Takes time proportional to the product of the two lengths at most: after a `*`, only the
/// shortest run that lets the rest fit needs to be tried.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.starts_with(b".") && !pattern.starts_with(b".") {
        return false;
    }
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let fits = match (pattern.get(at), name.get(from)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, from));
                continue;
            }
            (Some(_), Some(byte)) => one(&pattern[at..], *byte),
            _ => None,
        };
        if let Some(used) = fits {
            at += used;
            from += 1;
        } else {
            // Let the last star swallow one byte more.
            let Some((after, start)) = star.filter(|(_, start)| *start < name.len()) else {
                return false;
            };
            star = Some((after, start + 1));
            (at, from) = (after, start + 1);
        }
    }
}

/// If the first element of `pattern` fits `byte`: how long that element is.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', ..] => match set(pattern, byte) {
            Some((true, used)) => Some(used),
            Some((false, _)) => None,
            None => (byte == b'[').then_some(1), // never closed: a bracket
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// A bracket expression: whether it holds `byte`, and its length. `None` if it is never closed.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let mut low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        if low == b'\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        at += 1;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') && pattern.get(at + 1).is_some_and(|next| *next != b']') {
            at += 1;
            if pattern.get(at) == Some(&b'\\') {
                at += 1;
            }
            high = *pattern.get(at)?;
            at += 1;
        }
        found |= (low..=high).contains(&byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, fits) in [
            ("net*", "network", true),
            ("*", "network", true),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("?idden", ".hidden", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("*.conf", "x.conf", true),
            ("*.conf", "x.conf~", false),
            ("a**b", "ab", true),
            ("[x]", "x", true),
            ("[x]", "[x]", false),
            ("[a-c]z", "bz", true),
            ("[!a-c]z", "bz", false),
            ("[^a]", "b", true),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("[ab", "[ab", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("", "", true),
            ("", "x", false),
            ("?", "", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                fits,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"*a".repeat(200);
        assert!(!matches(&pattern, &b"a".repeat(199)));
        assert!(matches(&pattern, &b"a".repeat(400)));
    }
}
