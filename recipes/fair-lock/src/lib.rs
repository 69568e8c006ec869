//! A standard recipe.
