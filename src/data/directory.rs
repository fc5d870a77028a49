//! Records and archives as files of a directory that both slots share.
//!
//! Every file is replaced as a whole and durably.

use std::fs::File;
use std::path::PathBuf;

use super::{DataError, Entry, Installed, MODE, parse, to_line};
use crate::files::{self, NewFile};
use crate::health::Before;

/// Entries that history keeps.
const HISTORY: usize = 100;

/// No file here but the archive is longer; more is damage.
const MAX_RECORD: u64 = 256 << 10;

/// The directory; it is read or created when it is needed.
pub(super) struct Directory {
    pub(super) dir: PathBuf,
}

impl Directory {
    pub(super) fn create(&self) -> Result<(), DataError> {
        Ok(files::make_dirs(&self.dir, 0o700)?)
    }

    fn slot_file(&self, slot: &str) -> PathBuf {
        self.dir.join(format!("slot-{slot}.json"))
    }

    fn floor_file(&self) -> PathBuf {
        self.dir.join("floor")
    }

    fn history_file(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    fn archive_file(&self, slot: &str) -> PathBuf {
        self.dir.join(format!("archive-{slot}.tar.gz"))
    }

    pub(super) fn new_archive(&self, slot: &str) -> Result<NewFile, DataError> {
        Ok(NewFile::create(&self.archive_file(slot), MODE)?)
    }

    pub(super) fn open_archive(&self, slot: &str) -> Result<File, DataError> {
        Ok(files::open_past_cache(&self.archive_file(slot))?)
    }

    pub(super) fn remove_archive(&self, slot: &str) -> Result<(), DataError> {
        Ok(files::remove_durably(&self.archive_file(slot))?)
    }

    pub(super) fn installed(&self, slot: &str) -> Result<Option<Installed>, DataError> {
        let path = self.slot_file(slot);
        match files::read_if_exists(&path, MAX_RECORD)? {
            Some(bytes) => parse(path.display(), &bytes).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn set_installed(&self, slot: &str, installed: &Installed) -> Result<(), DataError> {
        let path = self.slot_file(slot);
        let mut text = to_line(path.display(), installed)?;
        text.push('\n');
        Ok(files::replace(&path, text.as_bytes(), MODE)?)
    }

    pub(super) fn floor(&self) -> Result<u64, DataError> {
        let path = self.floor_file();
        let Some(bytes) = files::read_if_exists(&path, MAX_RECORD)? else {
            return Ok(0);
        };
        let text = std::str::from_utf8(&bytes).ok();
        let number = text.and_then(|text| text.trim_end().parse().ok());
        number.ok_or_else(|| DataError::floor(path.display()))
    }

    pub(super) fn set_floor(&self, security: u64) -> Result<(), DataError> {
        let text = format!("{security}\n");
        Ok(files::replace(&self.floor_file(), text.as_bytes(), MODE)?)
    }

    fn health_file(&self) -> PathBuf {
        self.dir.join("health.json")
    }

    pub(super) fn before(&self) -> Result<Before, DataError> {
        let path = self.health_file();
        match files::read_if_exists(&path, MAX_RECORD)? {
            Some(bytes) => parse(path.display(), &bytes),
            None => Ok(Before::default()),
        }
    }

    /// Written only where it is something new: most boards never have anything to say here.
    pub(super) fn set_before(&self, before: &Before) -> Result<(), DataError> {
        if self.before().is_ok_and(|recorded| recorded == *before) {
            return Ok(());
        }
        let path = self.health_file();
        let mut text = to_line(path.display(), before)?;
        text.push('\n');
        Ok(files::replace(&path, text.as_bytes(), MODE)?)
    }

    pub(super) fn history(&self) -> Result<Vec<Entry>, DataError> {
        let bytes = files::read_if_exists(&self.history_file(), MAX_RECORD)?.unwrap_or_default();
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        Ok(lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect())
    }

    /// Adds an entry, and gives it its number.
    pub(super) fn note(&self, mut entry: Entry) -> Result<(), DataError> {
        let mut entries = self.history()?;
        entry.number = entries.last().map_or(1, |last| last.number + 1);
        entries.push(entry);
        let path = self.history_file();
        let mut text = String::new();
        for entry in entries.iter().skip(entries.len().saturating_sub(HISTORY)) {
            text.push_str(&to_line(path.display(), entry)?);
            text.push('\n');
        }
        Ok(files::replace(&path, text.as_bytes(), MODE)?)
    }
}
