//! The only crate that names wasmtime: check, compile, cache, bound, run.
