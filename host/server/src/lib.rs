//! The server by its stages: receive, route, evaluate, propose, apply, notify, respond.

pub mod receive;
pub mod route;
pub mod evaluate;
pub mod propose;
pub mod apply;
pub mod notify;
pub mod respond;

pub mod four_letter;
pub mod http;

pub mod recipes;

pub mod clock;
pub mod expiry;
pub mod metrics;

pub mod command;
pub mod serve;

#[cfg(test)]
mod testing;
