//! Decisions that the owner took before the upgrade, on what a plan showed.
//!
//! `/etc/sysupgrade/resolutions.json`. A decision belongs to a place and to the three versions that
//! were seen there: its digest covers them. When one of them has changed since, nobody knows whether
//! the owner would still decide so; the decision is then not followed, and the report says that.

use serde::{Deserialize, Serialize};

use super::super::EntryPath;
use super::super::report::Winner;
use crate::digest::{Digest, Hasher};

/// Version of the document.
const FORMAT: u32 = 1;

/// Decisions by path and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolutions {
    format: u32,
    resolutions: Vec<Resolution>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolution {
    path: EntryPath,
    /// The place inside the file; `None` for all of it.
    locus: Option<String>,
    winner: Winner,
    /// Of the three versions, see [`Seen`].
    seen: Digest,
}

impl Default for Resolutions {
    fn default() -> Self {
        Self {
            format: FORMAT,
            resolutions: Vec::new(),
        }
    }
}

impl Resolutions {
    /// True if this program can read it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.format == FORMAT
    }

    /// True if nothing was decided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resolutions.is_empty()
    }

    /// Stores a decision; an earlier one about the same place is forgotten.
    pub fn decide(&mut self, path: &EntryPath, locus: Option<&str>, winner: Winner, seen: Digest) {
        self.resolutions
            .retain(|old| (&old.path, old.locus.as_deref()) != (path, locus));
        self.resolutions.push(Resolution {
            path: path.clone(),
            locus: locus.map(str::to_owned),
            winner,
            seen,
        });
    }

    /// What was decided about a place, if it was about these versions.
    pub(super) fn find(
        &self,
        path: &EntryPath,
        locus: Option<&str>,
        seen: Digest,
    ) -> Option<Winner> {
        let place = (path, locus, seen);
        self.resolutions
            .iter()
            .find(|found| (&found.path, found.locus.as_deref(), found.seen) == place)
            .map(|found| found.winner)
    }

    /// Every place that was decided about.
    pub(super) fn places(&self) -> impl Iterator<Item = (&EntryPath, Option<&str>)> {
        self.resolutions
            .iter()
            .map(|resolution| (&resolution.path, resolution.locus.as_deref()))
    }
}

/// Digest of the three versions of a place, each of them a list of byte strings or absent. Lengths
/// are part of it, so that no two different triples read the same.
pub(super) struct Seen(Hasher);

impl Seen {
    pub(super) fn new() -> Self {
        Self(Hasher::new())
    }

    pub(super) fn version<'v>(
        mut self,
        items: Option<impl ExactSizeIterator<Item = &'v [u8]>>,
    ) -> Self {
        match items {
            None => self.0.update(b"absent;"),
            Some(items) => {
                self.0.update(format!("{} items;", items.len()).as_bytes());
                for item in items {
                    self.0.update(format!("{}:", item.len()).as_bytes());
                    self.0.update(item);
                }
            }
        }
        self
    }

    pub(super) fn digest(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(versions: [Option<&[&str]>; 3]) -> Digest {
        let mut seen = Seen::new();
        for version in versions {
            seen = seen.version(version.map(|items| items.iter().map(|item| item.as_bytes())));
        }
        seen.digest()
    }

    #[test]
    fn different_versions_have_different_digests() {
        let all = [
            [None, None, None],
            [Some(&[][..]), None, None],
            [Some(&["a"][..]), None, None],
            [None, Some(&["a"][..]), None],
            [Some(&["a", "b"][..]), None, None],
            [Some(&["ab"][..]), None, None],
            [Some(&["a"][..]), Some(&["b"][..]), None],
            [Some(&["absent;"][..]), None, None],
        ];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(seen(*one) == seen(*other), i == j, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_decision_counts_for_its_place_and_for_what_was_seen_there() {
        let path = EntryPath::new(b"etc/config/dhcp").unwrap();
        let (then, now) = (Digest::of(b"then"), Digest::of(b"now"));
        let mut resolutions = Resolutions::default();
        resolutions.decide(&path, Some("lan.leasetime"), Winner::New, then);
        let find = |locus, seen| resolutions.find(&path, locus, seen);
        assert_eq!(find(Some("lan.leasetime"), then), Some(Winner::New));
        assert_eq!(find(Some("lan.leasetime"), now), None);
        assert_eq!(find(Some("lan.start"), then), None);
        assert_eq!(find(None, then), None);
        let mut again = resolutions.clone();
        again.decide(&path, Some("lan.leasetime"), Winner::User, now);
        assert_eq!(again.places().count(), 1);
    }
}
