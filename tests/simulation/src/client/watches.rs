//! A client's watches: those that are armed, what was told in which of their connections, and how each ended.

use quorate_model::id::Zxid;
use quorate_wire::request::SetWatches;
use quorate_wire::{EventType, RequestBody, WatcherEvent};

/// What a watch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// That the znode, which is there, is set or deleted.
    Data,
    /// That the znode, which is not there, is created.
    Existence,
    /// That a child of the znode is created or deleted.
    Children,
}

/// A watch in one connection.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// As of when it was set there.
    pub set: Zxid,
    /// All up to this was told there, and the watch had not fired.
    pub quiet: Zxid,
}

/// The event that ended a watch.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What it says.
    pub event: EventType,
    /// As of when.
    pub zxid: Zxid,
    /// Whether it was told when the watch was to be set again, of what had happened meanwhile.
    pub meanwhile: bool,
}

/// A watch, over all connections that it went through.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The znode.
    pub path: String,
    /// What it waits for.
    pub awaits: Awaits,
    /// Its connections; at least one.
    pub legs: Vec<Leg>,
    /// How it ended; none if its session or the run did first.
    pub event: Option<Event>,
}

/// What a client watches.
#[derive(Default)]
pub struct Watches {
    armed: Vec<Watch>,
    ended: Vec<Watch>,
    /// Events of what nobody watched.
    strays: Vec<(Zxid, WatcherEvent)>,
    /// Whether they are set in the connection that there is.
    set: bool,
}

impl Watches {
    /// Whether something is awaited of this znode.
    pub fn watches(&self, path: &str) -> bool {
        self.armed.iter().any(|watch| watch.path == path)
    }

    /// Takes the watches that have ended, and events that nobody asked for.
    pub fn take(&mut self) -> (Vec<Watch>, Vec<(Zxid, WatcherEvent)>) {
        (
            std::mem::take(&mut self.ended),
            std::mem::take(&mut self.strays),
        )
    }

    /// The session ends, and its watches with it.
    pub(super) fn forget(&mut self) {
        self.ended.append(&mut self.armed);
        self.set = false;
    }

    /// The connection is not there any more.
    pub(super) fn interrupted(&mut self) {
        self.set = false;
    }

    /// There is a new connection: what is to be asked there first, if anything.
    pub(super) fn unset(&mut self, since: Zxid) -> Option<SetWatches> {
        if self.armed.is_empty() {
            self.set = true;
            return None;
        }
        let of = |awaits| {
            let those = self
                .armed
                .iter()
                .filter(move |watch| watch.awaits == awaits);
            those.map(|watch| watch.path.clone()).collect()
        };
        Some(SetWatches {
            since: since.0.cast_signed(),
            data: of(Awaits::Data),
            exist: of(Awaits::Existence),
            child: of(Awaits::Children),
        })
    }

    /// They are set in the new connection.
    pub(super) fn were_set(&mut self, set: Zxid) {
        self.set = true;
        for watch in &mut self.armed {
            watch.legs.push(Leg { set, quiet: set });
        }
    }

    /// A read was answered that may have set a watch.
    pub(super) fn answered(&mut self, asked: &Asked, zxid: Zxid, found: bool) {
        let awaits = match (asked.awaits, found) {
            (Awaits::Data | Awaits::Existence, true) => Awaits::Data,
            (Awaits::Existence, false) => Awaits::Existence,
            (Awaits::Children, true) => Awaits::Children,
            (Awaits::Data | Awaits::Children, false) => return,
        };
        self.armed.push(Watch {
            path: asked.path.clone(),
            awaits,
            legs: vec![Leg {
                set: zxid,
                quiet: zxid,
            }],
            event: None,
        });
    }

    /// An answer was told as of `zxid`: the events of all up to there have been told before (rule W2).
    pub(super) fn quiet(&mut self, zxid: Zxid) {
        if !self.set {
            return;
        }
        for leg in self
            .armed
            .iter_mut()
            .filter_map(|watch| watch.legs.last_mut())
        {
            leg.quiet = leg.quiet.max(zxid);
        }
    }

    /// An event was told.
    pub(super) fn fired(&mut self, zxid: Zxid, event: WatcherEvent) {
        let of_children = event.event == EventType::NodeChildrenChanged;
        let place = self.armed.iter().position(|watch| {
            watch.path == event.path && (watch.awaits == Awaits::Children) == of_children
        });
        let Some(place) = place else {
            return self.strays.push((zxid, event));
        };
        let mut watch = self.armed.swap_remove(place);
        watch.event = Some(Event {
            event: event.event,
            zxid,
            meanwhile: !self.set,
        });
        self.ended.push(watch);
        // Others may be told of the same transaction.
        self.quiet(Zxid(zxid.0.saturating_sub(1)));
    }
}

/// A read that sets a watch.
pub(super) struct Asked {
    path: String,
    awaits: Awaits,
}

impl Asked {
    /// What a request asks to be watched, if anything.
    pub(super) fn of(body: &RequestBody) -> Option<Asked> {
        let (path, awaits) = match body {
            RequestBody::GetData { path, watch: true } => (path, Awaits::Data),
            RequestBody::Exists { path, watch: true } => (path, Awaits::Existence),
            RequestBody::GetChildren { path, watch: true } => (path, Awaits::Children),
            _ => return None,
        };
        let path = path.clone();
        Some(Asked { path, awaits })
    }
}
