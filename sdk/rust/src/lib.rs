//! Write recipes for Quorate in Rust.
