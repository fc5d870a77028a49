//! A program of the board's that keeps the boot state.

use std::path::PathBuf;

use super::{BootError, Bootloader};
use crate::slots::BootState;

/// A program of the board's that keeps the boot state.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    names: [String; 2],
}

impl Program {
    /// At this place.
    #[must_use]
    pub fn new(path: PathBuf, arguments: Vec<String>, names: [String; 2]) -> Self {
        Self {
            path,
            arguments,
            names,
        }
    }

    fn missing<T>(&self) -> Result<T, BootError> {
        Err(BootError::Damaged {
            path: self.path.clone(),
            problem: format!("not yet: {:?}", (&self.arguments, &self.names)),
        })
    }
}

impl Bootloader for Program {
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
