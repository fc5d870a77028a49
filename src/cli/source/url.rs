//! Addresses, as typed and as redirected to.

use std::fmt;

use super::Problem;
use crate::report::printable;

/// Longer addresses are refused: with the rest of the request they must fit into a send buffer.
const MAX_URL: usize = 2048;

/// An address of the form `scheme://[user@]host[:port][/path][?query]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) secure: bool,
    /// Percent-encoded, as written.
    pub(super) user: Option<String>,
    /// A name or an address, without the brackets of IPv6.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// Path and query, with a slash in front.
    pub(super) target: String,
}

/// True for `word://...`; a file of such a name is written `./word://...`.
pub(super) fn has_scheme(word: &[u8]) -> bool {
    let scheme = word
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        .count();
    scheme > 0
        && word
            .get(scheme..)
            .is_some_and(|rest| rest.starts_with(b"://"))
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let bad = |why| Err(Problem::Address(why));
        if text.len() > MAX_URL {
            return bad("too long");
        }
        // Neither our request nor a fetcher's command line may hold anything but plain characters.
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        {
            return bad("blanks, backslashes, control or non-ASCII characters must be encoded");
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return bad("only http:// and https:// are"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(literal) => {
                let Some((host, rest)) = literal.split_once(']') else {
                    return bad("bracket is not closed");
                };
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return bad("not an IPv6 address in brackets");
                }
                match rest.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if rest.is_empty() => (host, ""),
                    None => return bad("something stands behind the bracket"),
                }
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        let of_a_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(of_a_host) {
            return bad("no host");
        }
        let port = match port {
            "" => None,
            digits => match digits.parse() {
                Ok(port) if port > 0 && !digits.starts_with('+') => Some(port),
                _ => return bad("no such port"),
            },
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            secure,
            user,
            host: host.to_owned(),
            port,
            target: format!("{slash}{target}"),
        })
    }

    /// Where a `Location` header leads, seen from here.
    pub(super) fn join(&self, location: &str) -> Result<Self, Problem> {
        if has_scheme(location.as_bytes()) {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme()));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let target = if location.starts_with('/') {
            location.to_owned()
        } else {
            format!("{directory}/{location}")
        };
        let origin = Self {
            target: String::new(),
            ..self.clone()
        };
        Self::parse(&format!("{origin}{target}"))
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Host and port as the `Host` header wants them.
    pub(super) fn place(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}{}", self.place(), self.target)
    }
}

/// An address for people: printable, and `***` in place of user and password.
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return printable(text);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, place)) => printable(&format!("{scheme}://***@{place}{target}")),
        None => printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    #[test]
    fn an_address_is_taken_apart_and_put_together_again() {
        let full = "http://user:pa%40ss@host.example:8080/dir/image.bin?a=b@c";
        let url = parsed(full);
        let expected = Url {
            secure: false,
            user: Some("user:pa%40ss".into()),
            host: "host.example".into(),
            port: Some(8080),
            target: "/dir/image.bin?a=b@c".into(),
        };
        assert_eq!(url, expected);
        assert_eq!(url.to_string(), full);
        for (text, expected) in [
            ("HTTP://h", "http://h/"),
            ("http://h:/i", "http://h/i"),
            ("http://h?q", "http://h/?q"),
            ("http://h/i#part", "http://h/i"),
            ("https://[fe80::1]:443/i", "https://[fe80::1]:443/i"),
            ("http://[::1]/i", "http://[::1]/i"),
        ] {
            assert_eq!(parsed(text).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_could_smuggle_something_into_a_request_is_refused() {
        for text in [
            "http://h/a b",
            "http://h/a\r\nX: y",
            "http://h/\u{e4}",
            "http://h\\@other/",
            "http://",
            "http:///i",
            "http://user@/i",
            "http://-oProxy/i",
            "http://h:0/",
            "http://h:65536/",
            "http://h:+80/",
            "http://a:b:80/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[nonsense]/",
            "http://h%2fx/",
            "ftp://h/i",
            "file:///etc/passwd",
        ] {
            match Url::parse(text) {
                Err(Problem::Address(_)) => {}
                other => panic!("{text:?}: {other:?}"),
            }
        }
        let long = format!("http://h/{}", "a".repeat(MAX_URL));
        assert!(matches!(Url::parse(&long), Err(Problem::Address(_))));
    }

    #[test]
    fn a_redirect_is_read_from_where_it_was_sent() {
        let from = parsed("http://u:p@h:8080/a/b?c");
        for (location, expected) in [
            ("http://other/i", "http://other/i"),
            ("https://other/i", "https://other/i"),
            ("//other/i", "http://other/i"),
            ("/i", "http://u:p@h:8080/i"),
            ("i?x", "http://u:p@h:8080/a/i?x"),
        ] {
            let found = from.join(location).map(|url| url.to_string());
            assert_eq!(found.ok().as_deref(), Some(expected), "{location}");
        }
        assert!(from.join("file:///etc/passwd").is_err());
        assert!(from.join("").is_ok_and(|url| url.target == "/a/"));
    }

    #[test]
    fn credentials_are_masked_wherever_they_stand() {
        for (text, expected) in [
            ("http://user:pw@h/i", "http://***@h/i"),
            ("https://a@b@h", "https://***@h"),
            ("http://h/i@2", "http://h/i@2"),
            ("bad address http://user:pw@h/", "bad address http://***@h/"),
            ("http://u:p@h:bad port/", "http://***@h:bad port/"),
            ("\u{1b}[m", "\\u{1b}[m"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }
}
