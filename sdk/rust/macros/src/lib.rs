//! The recipe! macro of quorate-recipe.
