//! The operations: what a request says should change. Each checks first and changes then.

pub(crate) mod znode;

pub(crate) mod multi;

pub(crate) mod session;

pub(crate) mod recipe;

pub(crate) mod mount;

pub(crate) mod standing;

pub(crate) mod call;

pub(crate) mod configuration;
pub(crate) mod version;
