//! Two changes of one default become one file.

#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod accounts;
#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod hints;
pub(super) mod policy;
#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod services;
#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod text;
mod three_way;
#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod uci;
