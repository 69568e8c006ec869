//! Opcodes and reserved xids: ZooKeeper's `ZooDefs.OpCode` and `ClientCnxn`, and ours.

/// Create a znode; the answer is its path.
pub const CREATE: i32 = 1;
/// Delete a znode.
pub const DELETE: i32 = 2;
/// A znode's stat.
pub const EXISTS: i32 = 3;
/// A znode's data and stat.
pub const GET_DATA: i32 = 4;
/// Set a znode's data.
pub const SET_DATA: i32 = 5;
/// A znode's access control list and stat.
pub const GET_ACL: i32 = 6;
/// Set a znode's access control list.
pub const SET_ACL: i32 = 7;
/// A znode's children.
pub const GET_CHILDREN: i32 = 8;
/// Answered once everything before it is applied.
pub const SYNC: i32 = 9;
/// Keeps the session alive.
pub const PING: i32 = 11;
/// A znode's children and stat.
pub const GET_CHILDREN2: i32 = 12;
/// A condition in a multi.
pub const CHECK: i32 = 13;
/// All or nothing.
pub const MULTI: i32 = 14;
/// Create a znode; the answer is its path and stat.
pub const CREATE2: i32 = 15;
/// Change the servers of the ensemble; the answer is the data and stat of `/zookeeper/config`.
pub const RECONFIG: i32 = 16;
/// Create a container; the answer is its path and stat.
pub const CREATE_CONTAINER: i32 = 19;
/// Prove an identity.
pub const AUTH: i32 = 100;
/// Set watches again after a reconnect.
pub const SET_WATCHES: i32 = 101;
/// The same with persistent watches.
pub const SET_WATCHES2: i32 = 105;
/// End the session.
pub const CLOSE_SESSION: i32 = -11;
/// In a multi's results: that part failed. In its headers: the end.
pub const ERROR: i32 = -1;

/// What ZooKeeper 3.8 knows besides and this server does not serve: check outside of a multi, checkWatches, removeWatches, deleteContainer, createTTL, multiRead, sasl, getEphemerals,
/// getAllChildrenNumber, addWatch, whoAmI and createSession. They are answered Unimplemented (-6) and the
/// connection goes on, so that a client can do without; after any other unknown opcode it is closed.
pub const NOT_SERVED: [i32; 12] = [CHECK, 17, 18, 20, 21, 22, 102, 103, 104, 106, 107, -10];

/// Ours: run an operation of a recipe.
pub const CALL: i32 = 700;
/// Ours: end a parked call without a result.
pub const CANCEL_CALL: i32 = 701;
/// Ours: forget the answers up to a key.
pub const ACKNOWLEDGE: i32 = 702;

/// The xid of watch events and late answers.
pub const NOTIFICATION_XID: i32 = -1;
/// The xid of pings and their answers.
pub const PING_XID: i32 = -2;
/// The xid of auth and its answer.
pub const AUTH_XID: i32 = -4;
/// The xid of setWatches and its answer.
pub const SET_WATCHES_XID: i32 = -8;
