//! Two changes of one default become one file.

#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod policy;
#[cfg_attr(not(test), expect(dead_code, reason = "joined by the engine"))]
mod text;
