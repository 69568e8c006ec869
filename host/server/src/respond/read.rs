//! Reads, answered from the state that their session's earlier writes have made.

use bytes::BytesMut;
use quorate_model::acl::{Identity, permission};
use quorate_model::id::{SessionId, Zxid};
use quorate_model::path::ZnodePath;
use quorate_tree::{State, Znode};
use quorate_wire::stat::STAT_BYTES;
use quorate_wire::{ErrorCode, EventType, Notification, ResponseBody, Stat, WatcherEvent};

use super::{Reply, encode};
use crate::notify::{AnswerForm, TooManyWatches, Watches};
use crate::receive::{CallPath, Standing};

/// A request that changes nothing but its own connection's watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A znode's stat. The watch is set whether it is there or not.
    Exists {
        /// Which.
        path: ZnodePath,
        /// Whether to tell of its next change, once.
        watch: bool,
    },
    /// A znode's data and stat.
    Data {
        /// Which.
        path: ZnodePath,
        /// Whether to tell of its next change, once. Not set if there is no such znode.
        watch: bool,
    },
    /// A znode's children.
    Children {
        /// Which.
        path: ZnodePath,
        /// Whether to tell of the next child created or deleted, once. Not set if there is no such znode.
        watch: bool,
        /// Whether the answer has the stat (getChildren2).
        with_stat: bool,
    },
    /// A znode's access control list and stat.
    Acl {
        /// Which.
        path: ZnodePath,
    },
    /// What its barrier stands for.
    Sync {
        /// Goes back as it came: ZooKeeper does not look at it.
        path: String,
    },
    /// Watches to be set again after a reconnect.
    SetWatches(Box<SetWatches>),
}

/// The one-shot watches of a client that has reconnected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetWatches {
    /// The last transaction that the client has seen.
    pub since: Zxid,
    /// Set by getData, and by exists where the znode was there.
    pub data: Vec<ZnodePath>,
    /// Set by exists where it was not.
    pub exist: Vec<ZnodePath>,
    /// Set by getChildren.
    pub child: Vec<ZnodePath>,
}

/// About how many bytes a child takes in an answer: a name of the usual length behind its own.
const CHILD_BYTES: usize = 32;

/// About how many bytes a watch takes in an answer, if its event is due at once, besides its path.
const EVENT_BYTES: usize = 36;

/// About how many bytes the answer takes, if the state stays as it is.
pub(super) fn answer_bytes(read: &Read, state: &State) -> usize {
    let stat = |path| state.stat(path);
    let header = STAT_BYTES + 20;
    header
        + match read {
            Read::Exists { .. } => 0,
            Read::Sync { path } => path.len(),
            Read::Data { path, .. } => stat(path).map_or(0, |stat| stat.data_length as usize),
            Read::Children { path, .. } => {
                stat(path).map_or(0, |stat| stat.children as usize * CHILD_BYTES)
            }
            Read::Acl { path } => state.acl(path).map_or(0, |acl| acl.bytes()),
            Read::SetWatches(set) => [&set.data, &set.exist, &set.child]
                .into_iter()
                .flatten()
                .map(|path| EVENT_BYTES + path.as_str().len())
                .sum(),
        }
}

/// Where a read is answered.
pub(super) struct Place<'a> {
    pub(super) state: &'a State,
    pub(super) connection: u64,
    pub(super) session: Option<SessionId>,
    pub(super) identities: &'a [Identity],
    pub(super) watches: &'a Watches,
}

impl<'a> Place<'a> {
    /// Appends the answer, and before it the events of watches that are due at once. The state is locked,
    /// so the watches are set and the answer made as of one moment (rule W2).
    pub(super) fn answer(&self, read: &Read, xid: i32, out: &mut BytesMut) {
        let reply = match read {
            Read::Exists { path, watch } => self.exists(path, *watch),
            Read::Data { path, watch } => self.data(path, *watch),
            Read::Children {
                path,
                watch,
                with_stat,
            } => self.children(path, *watch, *with_stat),
            Read::Acl { path } => self.acl(path),
            Read::Sync { path } => Ok(ResponseBody::Path(path.clone())),
            Read::SetWatches(set) => self.set_watches(set, out),
        };
        encode::reply(xid, self.state.last_zxid(), reply, out);
    }

    /// Anybody may ask, as in ZooKeeper.
    fn exists(&self, path: &ZnodePath, watch: bool) -> Reply {
        if watch {
            self.watch_data(path)?;
        }
        let stat = self.state.stat(path).ok_or(ErrorCode::NoNode)?;
        Ok(ResponseBody::Stat(Stat::from(&stat)))
    }

    fn data(&self, path: &ZnodePath, watch: bool) -> Reply {
        let node = self.find(path, permission::READ)?.node();
        if watch {
            self.watch_data(path)?;
        }
        Ok(ResponseBody::Data {
            data: node.data,
            stat: Stat::from(&node.stat),
        })
    }

    fn children(&self, path: &ZnodePath, watch: bool, with_stat: bool) -> Reply {
        let znode = self.find(path, permission::READ)?;
        if watch {
            self.watch_children(path)?;
        }
        let children = znode.children();
        Ok(if with_stat {
            ResponseBody::ChildrenWithStat {
                children,
                stat: Stat::from(&znode.stat()),
            }
        } else {
            ResponseBody::Children(children)
        })
    }

    /// Who may read the znode, or set its list, sees the list; hashes only who may set it.
    fn acl(&self, path: &ZnodePath) -> Reply {
        let znode = self.find(path, permission::READ | permission::ADMIN)?;
        let acl = match znode.permits(permission::ADMIN, self.identities) {
            true => znode.acl().clone(),
            false => znode.acl().masked(),
        };
        Ok(ResponseBody::Acl {
            acl,
            stat: Stat::from(&znode.stat()),
        })
    }

    /// The znode, if its access control list gives the client one of `permissions`. NoNode before NoAuth, as in ZooKeeper.
    fn find(&self, path: &ZnodePath, permissions: u32) -> Result<Znode<'a>, ErrorCode> {
        let znode = self.state.find(path).ok_or(ErrorCode::NoNode)?;
        match znode.permits(permissions, self.identities) {
            true => Ok(znode),
            false => Err(ErrorCode::NoAuth),
        }
    }

    /// ZooKeeper's `DataTree.setWatches`: what has happened since is told now, the rest is watched. No list is asked:
    /// exists tells as much.
    fn set_watches(&self, set: &SetWatches, out: &mut BytesMut) -> Reply {
        let zxid = self.state.last_zxid();
        let mut tell = |event, path: &ZnodePath| {
            let event = WatcherEvent::of(event, path.as_str());
            Notification::Watch(event).encode_frame(zxid, out);
        };
        for path in &set.data {
            if let Some((call, session)) = self.call(path) {
                match call.standing(session, self.state) {
                    Standing::Answered(zxid) if zxid > set.since => {
                        tell(EventType::NodeDataChanged, path);
                    }
                    Standing::Answered(_) => {}
                    Standing::Parked(id) => {
                        let form = AnswerForm::Watch { path: call.path };
                        self.watches.await_call(id, form, self.connection);
                    }
                    Standing::Unknown => tell(EventType::NodeDeleted, path),
                }
                continue;
            }
            match self.state.stat(path) {
                None => tell(EventType::NodeDeleted, path),
                Some(stat) if stat.modified > set.since => tell(EventType::NodeDataChanged, path),
                Some(_) => self.watch_data(path)?,
            }
        }
        for path in &set.exist {
            match self.state.stat(path) {
                Some(_) => tell(EventType::NodeCreated, path),
                None => self.watch_data(path)?,
            }
        }
        for path in &set.child {
            match self.state.stat(path) {
                None => tell(EventType::NodeDeleted, path),
                Some(stat) if stat.children_modified > set.since => {
                    tell(EventType::NodeChildrenChanged, path);
                }
                Some(_) => self.watch_children(path)?,
            }
        }
        Ok(ResponseBody::Empty)
    }

    /// The call that a watched path stands for (rule C8).
    fn call(&self, path: &ZnodePath) -> Option<(CallPath, SessionId)> {
        let found = CallPath::of(path.as_str(), self.session, self.state)?;
        let session = self.session?;
        found.key.is_some().then_some((found, session))
    }

    fn watch_data(&self, path: &ZnodePath) -> Result<(), ErrorCode> {
        self.watches
            .watch_data(self.connection, path)
            .map_err(quota)
    }

    fn watch_children(&self, path: &ZnodePath) -> Result<(), ErrorCode> {
        self.watches
            .watch_children(self.connection, path)
            .map_err(quota)
    }
}

/// ZooKeeper has no bound on watches, and so no number for it; a quota's is the closest.
fn quota(_: TooManyWatches) -> ErrorCode {
    ErrorCode::QuotaExceeded
}
