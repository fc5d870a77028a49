//! The layouts: how the variables of an environment say which slot boots.

use std::path::Path;

use super::order::Order;
use super::{BootError, boot_part};
use crate::board;
use crate::slots::BootState;

/// A layout, for two slots.
#[derive(Clone, Debug)]
pub(super) enum Layout {
    Order(Order),
    BootPart,
}

impl Layout {
    /// For slots of these names, in the order of the board file.
    pub(super) fn new(layout: board::Layout, names: [String; 2]) -> Self {
        match layout {
            board::Layout::Order => Self::Order(Order::new(names)),
            board::Layout::BootPart => Self::BootPart,
        }
    }

    /// The variables that stand for a state, with their values; `get` knows the present ones.
    pub(super) fn variables(
        &self,
        state: &BootState,
        get: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Vec<(String, String)> {
        match self {
            Self::Order(order) => order.variables(state).into(),
            Self::BootPart => boot_part::variables(state, get),
        }
    }

    /// The state that the variables stand for; `get` knows their values, `store` is for messages.
    pub(super) fn read(
        &self,
        store: &Path,
        get: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<BootState, BootError> {
        match self {
            Self::Order(order) => order.read(store, get),
            Self::BootPart => boot_part::read(store, get),
        }
    }
}
