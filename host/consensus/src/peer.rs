//! The way to peers: framed connections, one per peer and purpose, each begun with a hello.
//!
//! | purpose | carries | who dials |
//! | --- | --- | --- |
//! | log | entries, pipelined, answered in order | the leader |
//! | control | votes, pre-votes, heartbeats, handing over: never behind entries | anyone |
//! | snapshot | one snapshot's file, then the connection ends | the leader |
//! | server | whatever the server sends its peers | anyone |

pub(crate) mod acquaintances;
pub(crate) mod transport;

pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod stream;

pub(crate) mod dial;
pub(crate) mod lane;
pub(crate) mod message;
pub(crate) mod network;

pub(crate) mod accept;
pub(crate) mod answer;
pub(crate) mod transfer;
