//! The rules by which an image is for a device: names, and compat versions compared as numbers.
