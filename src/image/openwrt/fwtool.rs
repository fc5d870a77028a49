//! Chunks at the end of a stock image, as `fwtool` reads and writes them.
