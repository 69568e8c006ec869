//! One-shot watches: set by a read, fired by the next change, kept over reconnects.

use std::collections::HashMap;

use quorate_wire::request::SetWatches;
use quorate_wire::{EventType, RequestBody, WatcherEvent};
use tokio::sync::oneshot;

use crate::error::ClientError;

/// How many bytes of paths one setWatches carries: far below what a server takes as a frame.
const MAX_SET_WATCHES_BYTES: usize = 128 * 1024;

/// What a watched znode is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub event: EventType,
    /// To which znode.
    pub path: String,
}

/// Fires once, at the next change of what the read saw. It outlives a lost connection; a change
/// during it is told on reconnecting.
#[derive(Debug)]
#[must_use = "wait for it with `fired`"]
pub struct Watch(pub(crate) oneshot::Receiver<Result<WatchEvent, ClientError>>);

impl Watch {
    /// Waits for the change.
    ///
    /// # Errors
    /// [`ClientError::SessionExpired`], [`ClientError::Closed`]: there will be no event.
    pub async fn fired(self) -> Result<WatchEvent, ClientError> {
        self.0.await.unwrap_or(Err(ClientError::Closed))
    }
}

/// The other end of a [`Watch`].
pub(crate) type Watcher = oneshot::Sender<Result<WatchEvent, ClientError>>;

/// By which read a watch was set: decides which events fire it, and how it is set again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WatchKind {
    /// Data and stat were read.
    Data,
    /// The znode was not there.
    Exist,
    /// The children were listed.
    Child,
}

/// The watches of a session.
#[derive(Debug, Default)]
pub(crate) struct Watches(HashMap<(WatchKind, String), Vec<Watcher>>);

impl Watches {
    /// A read has set one.
    pub(crate) fn add(&mut self, kind: WatchKind, path: String, watcher: Watcher) {
        let watchers = self.0.entry((kind, path)).or_default();
        // Nobody waits for those any more; the server will fire all of them as one anyway.
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(watcher);
    }

    /// The server says that something happened.
    pub(crate) fn fire(&mut self, event: WatcherEvent) {
        let WatcherEvent { event, path, .. } = event;
        let kinds: &[WatchKind] = match event {
            EventType::NodeCreated | EventType::NodeDataChanged => {
                &[WatchKind::Data, WatchKind::Exist]
            }
            EventType::NodeDeleted => &[WatchKind::Data, WatchKind::Exist, WatchKind::Child],
            EventType::NodeChildrenChanged => &[WatchKind::Child],
            EventType::None | EventType::CallAnswered => &[],
        };
        for kind in kinds {
            for watcher in self.0.remove(&(*kind, path.clone())).unwrap_or_default() {
                let path = path.clone();
                // Whoever has dropped its watch does not want to know.
                let _ = watcher.send(Ok(WatchEvent { event, path }));
            }
        }
    }

    /// There will be no events any more.
    pub(crate) fn fail(&mut self, error: &ClientError) {
        for watcher in self.0.drain().flat_map(|(_, watchers)| watchers) {
            let _ = watcher.send(Err(error.clone()));
        }
    }

    /// The requests that set all of them again on a new connection; those whose event came after
    /// transaction `since` fire at once.
    pub(crate) fn set_again(&mut self, since: i64) -> Vec<RequestBody> {
        self.0.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.is_closed());
            !watchers.is_empty()
        });
        let empty = || SetWatches {
            since,
            ..SetWatches::default()
        };
        let mut requests = Vec::new();
        let (mut batch, mut bytes) = (empty(), 0);
        for (kind, path) in self.0.keys() {
            if bytes + path.len() > MAX_SET_WATCHES_BYTES {
                requests.push(RequestBody::SetWatches(std::mem::replace(
                    &mut batch,
                    empty(),
                )));
                bytes = 0;
            }
            bytes += path.len() + 4;
            match kind {
                WatchKind::Data => batch.data.push(path.clone()),
                WatchKind::Exist => batch.exist.push(path.clone()),
                WatchKind::Child => batch.child.push(path.clone()),
            }
        }
        if bytes > 0 {
            requests.push(RequestBody::SetWatches(batch));
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(watches: &mut Watches, kind: WatchKind, path: &str) -> Watch {
        let (watcher, watch) = oneshot::channel();
        watches.add(kind, path.into(), watcher);
        Watch(watch)
    }

    #[test]
    fn each_event_fires_the_watches_that_zookeeper_fires() {
        use EventType::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};
        use WatchKind::{Child, Data, Exist};
        for (event, kinds) in [
            (NodeCreated, &[Data, Exist][..]),
            (NodeDataChanged, &[Data, Exist]),
            (NodeDeleted, &[Data, Exist, Child]),
            (NodeChildrenChanged, &[Child]),
        ] {
            for kind in [Data, Exist, Child] {
                let mut watches = Watches::default();
                let mut here = watch(&mut watches, kind, "/a");
                let mut elsewhere = watch(&mut watches, kind, "/b");
                watches.fire(WatcherEvent::of(event, "/a"));
                let fired = here.0.try_recv().is_ok();
                assert_eq!(fired, kinds.contains(&kind), "{event:?} {kind:?}");
                assert!(elsewhere.0.try_recv().is_err());
            }
        }
    }

    #[test]
    fn watches_are_set_again_in_bounded_requests() {
        let mut watches = Watches::default();
        let kept: Vec<_> = (0..3000)
            .map(|n| {
                let path = format!("/{n:0>100}");
                watch(&mut watches, WatchKind::Child, &path)
            })
            .collect();
        drop(watch(&mut watches, WatchKind::Data, "/dropped"));
        let requests = watches.set_again(7);
        let mut paths = 0;
        for request in &requests {
            let RequestBody::SetWatches(batch) = request else {
                panic!("{request:?}");
            };
            assert_eq!(batch.since, 7);
            assert!(batch.data.is_empty() && batch.exist.is_empty());
            assert!(batch.child.iter().map(String::len).sum::<usize>() <= MAX_SET_WATCHES_BYTES);
            paths += batch.child.len();
        }
        assert_eq!(paths, kept.len());
        assert_eq!(requests.len(), 3);
    }
}
