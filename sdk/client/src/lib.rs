//! A client for Quorate and ZooKeeper: sessions, znodes, watches, calls, administration.
