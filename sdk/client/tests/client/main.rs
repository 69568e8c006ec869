//! The client against a server that does what a test says, and against a real ZooKeeper.

mod fake;

mod admin;
mod calls;
mod sessions;
mod zookeeper;
