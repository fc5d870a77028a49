//! Names of systemd-boot's entries.

use std::path::PathBuf;

use super::{BootError, Bootloader};
use crate::slots::BootState;

/// Names of systemd-boot's entries.
#[derive(Debug)]
pub struct SystemdBoot {
    path: PathBuf,
    names: [String; 2],
}

impl SystemdBoot {
    /// At this place.
    #[must_use]
    pub fn new(path: PathBuf, names: [String; 2]) -> Self {
        Self { path, names }
    }

    fn missing<T>(&self) -> Result<T, BootError> {
        Err(BootError::Damaged {
            path: self.path.clone(),
            problem: format!("not yet: {:?}", (&self.path, &self.names)),
        })
    }
}

impl Bootloader for SystemdBoot {
    fn load(&mut self) -> Result<BootState, BootError> {
        self.missing()
    }

    fn store(&mut self, _state: &BootState) -> Result<(), BootError> {
        self.missing()
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        self.missing()
    }

    fn repair(&mut self, _state: &BootState) -> Result<Vec<String>, BootError> {
        self.missing()
    }
}
