//! The ledger: what was applied, seen from inside. Every server has to apply the same, and nothing twice.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;

use parking_lot::Mutex;
use quorate_model::call::Ending;
use quorate_model::id::{ServerId, SessionId, Zxid};
use quorate_model::write_set::{Batch, Change, Entry, Transaction};

use crate::check::{Kind, Violation};

/// What all servers have applied.
#[derive(Default)]
pub struct Ledger {
    state: Mutex<State>,
    /// Entries apply whatever was before them: the rule that a checker has to be able to see missing.
    unguarded: bool,
}

/// One in so many entries is a gap.
const GAP_EVERY: u64 = 40;

/// Whether the entry is one of those that get lost.
fn gap(batch: &Batch) -> bool {
    let mut hasher = DefaultHasher::new();
    let first = batch.transactions.first().map(|first| first.time.0);
    (batch.epoch, batch.first_counter, first).hash(&mut hasher);
    hasher.finish().is_multiple_of(GAP_EVERY)
}

#[derive(Default)]
struct State {
    /// What the first server that came to a zxid has applied there.
    transactions: BTreeMap<Zxid, Transaction>,
    /// Where each server is, as far as is known.
    last: BTreeMap<ServerId, Zxid>,
    /// Behind which transaction each epoch began, by the first server that is known to have been there.
    begun: BTreeMap<u32, (ServerId, Zxid)>,
    violations: Vec<Violation>,
}

impl State {
    /// An epoch begins on a server, behind the last transaction that it has applied.
    fn begins(&mut self, server: ServerId, epoch: u32) {
        let Some(last) = self.last.insert(server, Zxid::new(epoch, 0)) else {
            return;
        };
        match self.begun.get(&epoch) {
            None => drop(self.begun.insert(epoch, (server, last))),
            Some((_, at)) if *at == last => {}
            Some((first, at)) => {
                let what = format!(
                    "epoch {epoch} began behind {last} on server {server}, and behind {at} on server {first}"
                );
                self.violations.push(Violation::new(Kind::Diverged, what));
            }
        }
    }
}

impl Ledger {
    /// An empty one.
    pub fn new(unguarded: bool) -> Ledger {
        Ledger {
            unguarded,
            ..Ledger::default()
        }
    }

    /// The entry as it is to be applied by `server`: itself, unless the guard is off; none for a gap, which is the same
    /// one on every server. Such gaps come about where a leader's lease runs out between two proposals.
    pub fn as_applied<'a>(&self, server: ServerId, entry: &'a Entry) -> Option<Cow<'a, Entry>> {
        let Entry::Transactions(batch) = entry else {
            return Some(Cow::Borrowed(entry));
        };
        if gap(batch) {
            return None;
        }
        let last = self.state.lock().last.get(&server).copied();
        match last.filter(|_| self.unguarded) {
            None => Some(Cow::Borrowed(entry)),
            Some(last) => {
                let mut batch = batch.clone();
                batch.epoch = last.epoch();
                batch.first_counter = last.counter() + 1;
                Some(Cow::Owned(Entry::Transactions(batch)))
            }
        }
    }

    /// A server has applied an entry.
    pub fn applied(&self, server: ServerId, entry: &Entry) {
        let mut state = self.state.lock();
        let batch = match entry {
            Entry::EpochStart(start) => {
                state.begins(server, start.epoch);
                return;
            }
            Entry::Transactions(batch) => batch,
        };
        for (counter, transaction) in (batch.first_counter..).zip(&batch.transactions) {
            let zxid = Zxid::new(batch.epoch, counter);
            state.last.insert(server, zxid);
            match state.transactions.get(&zxid) {
                None => drop(state.transactions.insert(zxid, transaction.clone())),
                Some(first) if first == transaction => {}
                Some(first) => {
                    let violation = format!(
                        "server {server} applied at {zxid} what another server did not: {transaction:?} instead of {first:?}"
                    );
                    let violation = Violation::new(Kind::Diverged, violation);
                    state.violations.push(violation);
                }
            }
        }
    }

    /// A server starts anew, or goes on from a snapshot.
    pub fn installed(&self, server: ServerId) {
        self.state.lock().last.remove(&server);
    }

    /// What servers did that they must not, and what some had applied that is in the log no more.
    pub fn violations(&self) -> Vec<Violation> {
        let state = self.state.lock();
        let mut found = state.violations.clone();
        for (epoch, (server, last)) in &state.begun {
            let behind = (
                Bound::Excluded(*last),
                Bound::Excluded(Zxid::new(*epoch, 0)),
            );
            for (zxid, transaction) in state.transactions.range(behind) {
                let what = format!(
                    "{zxid} was applied, and epoch {epoch} began behind {last} on server {server}: {transaction:?}"
                );
                found.push(Violation::new(Kind::Lost, what));
            }
        }
        found
    }

    /// All transactions.
    pub fn transactions(&self) -> BTreeMap<Zxid, Transaction> {
        self.state.lock().transactions.clone()
    }

    /// How many sessions were local at first.
    pub fn upgraded_sessions(&self) -> usize {
        let state = self.state.lock();
        let changes = state.transactions.values();
        changes
            .flat_map(|transaction| &transaction.changes)
            .filter(|change| matches!(change, Change::UpgradeSession { .. }))
            .count()
    }

    /// How many calls had to wait.
    pub fn waited(&self) -> usize {
        let state = self.state.lock();
        let changes = state.transactions.values();
        let changes = changes.flat_map(|transaction| &transaction.changes);
        let parked = changes.filter_map(|change| match change {
            Change::Park(call) => Some(call.id),
            _ => None,
        });
        parked.collect::<BTreeSet<_>>().len()
    }

    /// How the calls have ended.
    pub fn endings(&self) -> Vec<Ending> {
        let state = self.state.lock();
        let changes = state.transactions.values();
        let changes = changes.flat_map(|transaction| &transaction.changes);
        let ended = changes.filter_map(|change| match change {
            Change::PutAnswer { answer, .. } => Some(answer.ending.clone()),
            _ => None,
        });
        ended.collect()
    }

    /// At which transaction each session has ended.
    pub fn ended_sessions(&self) -> BTreeMap<SessionId, Zxid> {
        let state = self.state.lock();
        let all = state.transactions.iter();
        all.flat_map(|(zxid, transaction)| {
            transaction
                .changes
                .iter()
                .filter_map(move |change| match change {
                    Change::CloseSession { session } => Some((*session, *zxid)),
                    _ => None,
                })
        })
        .collect()
    }
}
