//! What a stock image holds: recognised by its first bytes, and taken apart into the parts of a slot.
