//! What a stock image says of itself: the JSON of its info chunk.
