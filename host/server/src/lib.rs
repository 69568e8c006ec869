//! The server by its stages: receive, route, evaluate, propose, apply, notify, respond.

pub mod apply;
pub mod evaluate;
pub mod notify;
pub mod propose;
pub mod receive;
pub mod respond;
pub mod route;

pub mod four_letter;
pub mod http;

pub mod recipes;
pub mod upload;

pub mod members;

pub mod activity;
pub mod bounds;
pub mod clock;
pub mod digests;
pub mod essential;
pub mod expiry;
pub mod local_sessions;
pub mod metrics;
pub mod mode;
pub mod read_only;
pub mod readiness;
pub mod silence;
pub mod version;
pub mod waiting;

pub mod command;
pub mod serve;
pub mod server;

#[cfg(test)]
mod testing;
