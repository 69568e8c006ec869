//! The benchmark against ZooKeeper.

fn main() {}
