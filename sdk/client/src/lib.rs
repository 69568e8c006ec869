//! A client for Quorate and ZooKeeper: sessions, znodes, watches, calls, administration.
//!
//! ```no_run
//! use quorate_client::{Client, CreateMode, Options};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), quorate_client::ClientError> {
//! let client = Client::connect("127.0.0.1:2181", Options::default()).await?;
//!
//! // Znodes, as in ZooKeeper.
//! client.create("/config", "initial", CreateMode::Persistent).await?;
//! let (data, stat, watch) = client.get_and_watch("/config").await?;
//! client.set("/config", "updated", Some(stat.version)).await?;
//! let event = watch.fired().await?;
//!
//! // Recipes: one round trip, executed once.
//! let grant = client.call("/locks", "acquire", json!(["inventory"])).await?;
//! client.call("/locks", "release", json!(["inventory"])).await?;
//!
//! client.close().await
//! # }
//! ```
//!
//! The znode part works against ZooKeeper as well. Calls need Quorate; [`admin`] speaks to its HTTP port.

mod client;

mod call;
mod watch;

mod connect;
mod session;

pub mod activity;
pub mod admin;
pub mod trial;

mod error;

pub use call::{Call, CallError};
pub use client::{Client, Credentials, Options, Proof, SessionState};
pub use error::ClientError;
pub use watch::{Watch, WatchEvent};

pub use quorate_model::acl::{Acl, AclEntry, Identity, permission};
pub use quorate_wire::{
    Create, CreateMode, ErrorCode, EventType, MultiOperation, MultiResult, Stat,
};
