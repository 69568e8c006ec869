//! Lines for the operator: kept by the server, never replicated.

use crate::bindings::quorate::recipe::log::{Level, write};

/// A line for the author.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// A line for the curious operator.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// A line for the operator.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// A line for the operator, now. If the run then traps, its caller is told the last of these too.
pub fn error(message: &str) {
    write(Level::Error, message);
}
