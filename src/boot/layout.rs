//! The layouts: how the variables of an environment say which slot boots.

use std::path::Path;

use super::BootError;
use super::order::Order;
use super::switch::Switch;
use crate::board;
use crate::slots::BootState;

/// A layout, for two slots.
#[derive(Clone, Debug)]
pub(super) enum Layout {
    Order(Order),
    Switch(Switch),
}

impl Layout {
    /// For slots of these names, in the order of the board file, and trials of so many boots.
    pub(super) fn new(layout: &board::Layout, names: [String; 2], tries: u8) -> Self {
        match layout {
            board::Layout::Order => Self::Order(Order::new(names)),
            board::Layout::Switch(switch) => Self::Switch(Switch::new((**switch).clone(), tries)),
        }
    }

    /// The variables that stand for a state, with their values.
    pub(super) fn variables(&self, state: &BootState) -> Vec<(String, String)> {
        match self {
            Self::Order(order) => order.variables(state).into(),
            Self::Switch(switch) => switch.variables(state),
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
            Self::Switch(switch) => switch.read(store, get),
        }
    }
}
