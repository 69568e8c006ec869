//! The checker: whether what clients saw and what servers applied can be, if every promise is kept.

pub mod calls;
pub mod ephemerals;
pub mod leases;
pub mod linearizable;
pub mod locks;
pub mod members;
pub mod once;
pub mod queues;
pub mod tree;
pub mod watches;
pub mod znodes;

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;

use crate::history::{History, Operation};
use crate::ledger::Ledger;
use ephemerals::EPHEMERALS;
use znodes::Znodes;

/// What is wrong with a run, by the promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// No order of the operations explains the answers.
    NotLinearizable,
    /// The search for such an order was given up.
    Undecided,
    /// What was acknowledged, or applied by some server, is not there.
    Lost,
    /// Something was done more often than it was asked for, or though it was refused.
    Twice,
    /// A client's writes were applied in another order than it sent them in.
    OutOfOrder,
    /// Two held one lock or lease at a time, or a fencing token was not above the one before.
    TwoHolders,
    /// A call ended too early, waited where nothing is mounted, or left something behind.
    Call,
    /// An item of a queue was given out of its turn, or went without being taken.
    Queue,
    /// An event of a watch is missing, or late, or of what did not happen.
    Watch,
    /// An ephemeral has not lived as long as its session.
    Ephemeral,
    /// Half of a transaction was done.
    Torn,
    /// Servers have applied different things, or have come to different states.
    Diverged,
    /// A change of the members was acknowledged and has no effect, or they are not who was asked for.
    Members,
    /// A server has found its files damaged when it started.
    Damaged,
    /// A server, a client or the process has failed.
    Failed,
    /// Somebody still waits, long after everything was mended.
    Stuck,
    /// A client was told what it cannot have been told.
    Answer,
    /// The same seed has not given the same run.
    Replay,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// How, for people.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}: {}", self.kind, self.what)
    }
}

/// A line that says that a promise was broken begins so.
const MARK: &str = "VIOLATION ";

impl Violation {
    /// One of this kind.
    pub fn new(kind: Kind, what: impl Into<String>) -> Violation {
        let what = what.into();
        Violation { kind, what }
    }

    /// The kind of violation that a line speaks of; none if it speaks of none.
    pub fn kind_of(line: &str) -> Option<Kind> {
        let (kind, _) = line.strip_prefix(MARK)?.split_once(':')?;
        Kind::from_str(kind, false).ok()
    }
}

/// All violations; none if everything is as it must be.
pub fn violations(history: &History, ledger: &Ledger) -> Vec<Violation> {
    let complaints = history.complaints();
    let complaints = complaints.into_iter();
    let mut found: Vec<Violation> = complaints
        .map(|what| Violation::new(Kind::Answer, what))
        .collect();
    found.extend(ledger.violations());
    found.extend(once::violations(&history.operations(), ledger));
    let transactions = ledger.transactions();
    let ended = locks::Ended {
        calls: calls::answered(&transactions),
        sessions: ledger.ended_sessions(),
    };
    found.extend(locks::violations(&history.holds(), &ended));
    let calls = history.calls();
    found.extend(calls::violations(&calls, &transactions));
    found.extend(queues::violations(&calls, &transactions));
    found.extend(leases::violations(&transactions));
    found.extend(ephemerals::violations(&transactions));
    let znodes = Znodes::new(&transactions);
    found.extend(znodes.violations(&history.glimpses()));
    found.extend(watches::violations(&history.watches(), &znodes));
    let mut registers: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    let written = once::written(ledger);
    for operation in history.operations() {
        // The order in a pipeline is checked by what was applied, and so many at once have too many orders to try.
        // Ephemerals go by themselves.
        let register = operation.register.as_str();
        if register.starts_with(once::PIPELINES) || register.starts_with(EPHEMERALS) {
            continue;
        }
        // Of what nobody was told, what was never done need not be tried everywhere.
        if operation.told.is_none() && !once::may_be_done(&operation, &written) {
            continue;
        }
        let register = operation.register.clone();
        registers.entry(register).or_default().push(operation);
    }
    for (register, operations) in registers {
        match linearizable::check(&operations) {
            linearizable::Verdict::Linearizable => {}
            linearizable::Verdict::TooManyStates => found.push(Violation::new(
                Kind::Undecided,
                format!(
                    "{register}: its {} operations have too many possible orders",
                    operations.len()
                ),
            )),
            linearizable::Verdict::Not { stuck } => found.push(Violation::new(
                Kind::NotLinearizable,
                format!(
                    "{register}: no order of its {} operations explains {stuck:?}",
                    operations.len()
                ),
            )),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use quorate_model::id::{SessionId, Timestamp, Zxid};
    use quorate_model::write_set::{Change, Transaction};

    use super::*;

    /// Transactions with these changes, from zxid 1 on, each at its zxid in milliseconds.
    pub(super) fn transactions(
        all: impl IntoIterator<Item = Vec<Change>>,
    ) -> BTreeMap<Zxid, Transaction> {
        let transactions = (1..).zip(all).map(|(zxid, changes)| {
            let transaction = Transaction {
                time: Timestamp(zxid),
                origin: None,
                session: SessionId(1),
                changes,
                outcome: None,
            };
            (Zxid(zxid), transaction)
        });
        transactions.collect()
    }
}
