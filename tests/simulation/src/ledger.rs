//! The ledger: what was applied, seen from inside. Every server has to apply the same, and nothing twice.

use std::borrow::Cow;
use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_model::id::{ServerId, SessionId, Zxid};
use quorate_model::write_set::{Change, Entry, Transaction};

/// What all servers have applied.
#[derive(Default)]
pub struct Ledger {
    state: Mutex<State>,
    /// Entries apply whatever was before them: the rule that a checker has to be able to see missing.
    unguarded: bool,
}

#[derive(Default)]
struct State {
    /// What the first server that came to a zxid has applied there.
    transactions: BTreeMap<Zxid, Transaction>,
    /// Where each server is, as far as is known.
    last: BTreeMap<ServerId, Zxid>,
    violations: Vec<String>,
}

impl Ledger {
    /// An empty one.
    pub fn new(unguarded: bool) -> Ledger {
        Ledger {
            unguarded,
            ..Ledger::default()
        }
    }

    /// The entry as it is to be applied by `server`: itself, unless the guard is off.
    pub fn as_applied<'a>(&self, server: ServerId, entry: &'a Entry) -> Cow<'a, Entry> {
        let last = self.state.lock().last.get(&server).copied();
        match (entry, last) {
            (Entry::Transactions(batch), Some(last)) if self.unguarded => {
                let mut batch = batch.clone();
                batch.epoch = last.epoch();
                batch.first_counter = last.counter() + 1;
                Cow::Owned(Entry::Transactions(batch))
            }
            _ => Cow::Borrowed(entry),
        }
    }

    /// A server has applied an entry.
    pub fn applied(&self, server: ServerId, entry: &Entry) {
        let mut state = self.state.lock();
        let batch = match entry {
            Entry::EpochStart(start) => {
                state.last.insert(server, Zxid::new(start.epoch, 0));
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
                    state.violations.push(violation);
                }
            }
        }
    }

    /// A server starts anew, or goes on from a snapshot.
    pub fn installed(&self, server: ServerId) {
        self.state.lock().last.remove(&server);
    }

    /// What servers did that they must not.
    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// All transactions.
    pub fn transactions(&self) -> BTreeMap<Zxid, Transaction> {
        self.state.lock().transactions.clone()
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
