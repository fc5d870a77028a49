//! Attribute bits of GPT partitions.

use std::path::PathBuf;

use super::{BootError, Bootloader};
use crate::slots::BootState;

/// Attribute bits of GPT partitions.
#[derive(Debug)]
pub struct GptAttributes {
    path: PathBuf,
    partitions: [String; 2],
}

impl GptAttributes {
    /// At this place.
    #[must_use]
    pub fn new(path: PathBuf, partitions: [String; 2]) -> Self {
        Self { path, partitions }
    }

    fn missing<T>(&self) -> Result<T, BootError> {
        Err(BootError::Damaged {
            path: self.path.clone(),
            problem: format!("not yet: {:?}", (&self.path, &self.partitions)),
        })
    }
}

impl Bootloader for GptAttributes {
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
