//! Which paths travel, where whole trees are merged and not an archive: the words of keep lists.

use super::super::{EntryPath, pattern};

/// Paths and shell patterns of keep lists. A directory stands for all that is in it.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    words: Vec<EntryPath>,
}

impl Declared {
    /// Reads lines as keep lists have them. Words that cannot be a path name nothing.
    pub fn new<'l>(lines: impl IntoIterator<Item = &'l str>) -> Self {
        let lines = lines.into_iter().map(str::trim);
        let words = lines
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .filter_map(|word| EntryPath::new(word.as_bytes()).ok())
            .collect();
        Self { words }
    }

    /// True if a word names the path or a directory above it.
    pub(super) fn contains(&self, path: &EntryPath) -> bool {
        self.words.iter().any(|word| covers(word, path))
    }

    /// True if a word names something below the directory, or a directory above it.
    pub(super) fn leads_through(&self, dir: &EntryPath) -> bool {
        self.words
            .iter()
            .any(|word| covers(word, dir) || covers(dir, word))
    }
}

/// True if the pattern fits the path or one of the directories above it.
fn covers(word: &EntryPath, path: &EntryPath) -> bool {
    let mut names = path.as_bytes().split(|byte| *byte == b'/');
    word.as_bytes().split(|byte| *byte == b'/').all(|pattern| {
        names
            .next()
            .is_some_and(|name| pattern::matches(pattern, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_paths_patterns_and_all_below_a_directory() {
        let declared = Declared::new(["# /etc/no", "/etc/config/ /root/*.sh", " etc/passwd"]);
        let contains = |path: &str| declared.contains(&EntryPath::new(path.as_bytes()).unwrap());
        for path in ["etc/config", "etc/config/a/b", "root/x.sh", "etc/passwd"] {
            assert!(contains(path), "{path}");
        }
        for path in ["etc", "etc/no", "etc/configs", "root/x", "root", "passwd"] {
            assert!(!contains(path), "{path}");
        }
        let leads = |path: &str| declared.leads_through(&EntryPath::new(path.as_bytes()).unwrap());
        assert!(leads("etc") && leads("root") && leads("etc/config/a"));
        assert!(!leads("usr") && !leads("etc/other"));
    }
}
