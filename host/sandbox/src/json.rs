//! JSON to component values and back, in the forms that the crate's documentation lists.

mod parse;
#[cfg(test)]
mod tests;
mod wave;
mod write;

pub(crate) use parse::arguments;
pub(crate) use write::{Side, TooLong, result};

use crate::interface::{Definition, Type};

/// What `NaN` and the infinities are in JSON, which has no numbers for them.
const NAN: &str = "NaN";
const INFINITY: &str = "Infinity";
const MINUS_INFINITY: &str = "-Infinity";

/// Whether a value of this type may be `null`: then an option around it says `some`.
fn may_be_null(ty: &Type) -> bool {
    match ty {
        Type::Option(_) => true,
        Type::Named(named) => match &named.definition {
            Definition::Alias(target) => may_be_null(target),
            _ => false,
        },
        _ => false,
    }
}
