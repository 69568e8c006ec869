//! ZooKeeper's jute protocol: bytes to values and back.
