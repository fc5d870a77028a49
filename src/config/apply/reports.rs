//! Reports in the tree that they tell of, the last five.

use std::path::{Path, PathBuf};

use super::build::{ATTIC, CONFLICTS, MAX_SET_ASIDE};
use crate::config::ConfigError;
use crate::config::report::Report;
use crate::files;

/// Where reports are, below a root: `00001.json` and so on. Numbers, because routers that have just
/// booted do not know the time.
pub const REPORTS: &str = "etc/sysupgrade/reports";

/// So many are kept.
const KEPT: usize = 5;

/// The longest report: [`crate::config::MAX_ENTRIES`] entries with long names.
const MAX_REPORT: u64 = 32 << 20;

/// The last report of a tree.
///
/// # Errors
/// When a report that is there cannot be read. One that makes no sense is none.
pub fn latest(root: &Path) -> Result<Option<Report>, ConfigError> {
    match numbers(root)?.pop() {
        Some(number) => numbered(root, number),
        None => Ok(None),
    }
}

/// The report of that number.
///
/// # Errors
/// As [`latest`].
pub fn numbered(root: &Path, number: u32) -> Result<Option<Report>, ConfigError> {
    let bytes = files::read_if_exists(&report_path(root, number), MAX_REPORT)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The numbers of the reports that a tree has, ascending.
///
/// # Errors
/// When their directory cannot be read.
pub fn numbers(root: &Path) -> Result<Vec<u32>, ConfigError> {
    let dir = root.join(REPORTS);
    if !files::is_dir(&dir) {
        return Ok(Vec::new());
    }
    let mut numbers: Vec<u32> = files::list(&dir)?
        .iter()
        .filter_map(|name| name.to_str()?.strip_suffix(".json")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the next report of a tree.
pub(in crate::config) fn next(root: &Path) -> Result<u32, ConfigError> {
    let last = numbers(root)?.pop();
    Ok(last.unwrap_or(0).saturating_add(1))
}

/// Removes the oldest reports with what was set aside for them, and of the attics as many of the
/// oldest as are too much together. The newest stays.
pub(in crate::config) fn prune(root: &Path) -> Result<(), ConfigError> {
    let numbers = numbers(root)?;
    let surplus = numbers.len().saturating_sub(KEPT);
    for number in &numbers[..surplus] {
        for dir in [ATTIC, CONFLICTS] {
            files::remove_tree(&set_aside(root, dir, *number))?;
        }
        // Last: until it is gone, the next run tries again.
        files::remove_durably(&report_path(root, *number))?;
    }
    let mut held = 0_u64;
    for number in numbers[surplus..].iter().rev() {
        let attic = set_aside(root, ATTIC, *number);
        held = held.saturating_add(files::tree_size(&attic)?);
        if held > MAX_SET_ASIDE && Some(number) != numbers.last() {
            files::remove_tree(&attic)?;
        }
    }
    Ok(())
}

fn set_aside(root: &Path, dir: &str, number: u32) -> PathBuf {
    root.join(dir).join(format!("{number:05}"))
}

fn report_path(root: &Path, number: u32) -> PathBuf {
    root.join(REPORTS).join(format!("{number:05}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn old_reports_go_with_their_attic_and_attics_that_are_too_much_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let attic = |number: u32| set_aside(root, ATTIC, number).join("etc/x");
        fs::create_dir_all(root.join(REPORTS)).unwrap();
        for number in 1..=7 {
            fs::write(report_path(root, number), "{}").unwrap();
            fs::create_dir_all(attic(number).parent().unwrap()).unwrap();
            fs::write(attic(number), vec![0; 100 << 10]).unwrap();
            fs::create_dir_all(set_aside(root, CONFLICTS, number)).unwrap();
        }
        prune(root).unwrap();
        assert_eq!(numbers(root).unwrap(), [3, 4, 5, 6, 7]);
        let left = |dir: &str| files::list(&root.join(dir)).unwrap().len();
        assert_eq!(left(CONFLICTS), 5);
        assert_eq!(left(ATTIC), 2);
        assert!(attic(7).exists() && attic(6).exists());
    }
}
