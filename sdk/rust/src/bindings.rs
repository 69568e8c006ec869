//! Generated from `wit/recipe.wit`: nothing to read here.

#![allow(
    warnings,
    clippy::all,
    clippy::restriction,
    unsafe_code,
    missing_docs,
    unreachable_pub,
    reason = "generated"
)]

quorate_recipe_macros::abi!();

/// What the bindings of a recipe's own interfaces stand on.
pub use wit_bindgen::rt as runtime;
