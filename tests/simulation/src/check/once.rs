//! Once: what was acknowledged is there, exactly once, and nothing else was done twice; each client's pipelined
//! writes are in their order.

use std::collections::BTreeMap;

use quorate_model::id::Zxid;
use quorate_model::write_set::Change;

use crate::check::{Kind, Violation};
use crate::history::{Ask, Operation, Part, Told};
use crate::ledger::Ledger;

/// Below this znode each client has one of its own, which it sets to growing numbers.
pub const PIPELINES: &str = "/pipelines/";

/// By path and datum, when it was written. Every datum that a client writes is unique.
pub type Written = BTreeMap<(String, String), Vec<Zxid>>;

/// Everything that was written.
pub fn written(ledger: &Ledger) -> Written {
    let mut written = Written::new();
    for (zxid, path, datum) in writes(ledger) {
        written.entry((path, datum)).or_default().push(zxid);
    }
    written
}

/// The path of one znode of a pair.
pub fn of_pair(register: &str, place: usize) -> String {
    format!("{register}{}", ["a", "b"][place])
}

/// What an operation writes: where, and what.
fn to_be_written(operation: &Operation) -> Vec<(String, String)> {
    match &operation.ask {
        Ask::Create(datum) | Ask::Set(datum, _) => {
            vec![(operation.register.clone(), datum.clone())]
        }
        Ask::Together(datum, parts) => {
            let places = parts.iter().filter_map(|part| match part {
                Part::Create(place) | Part::Set(place, _) => Some(*place),
                Part::Delete(..) | Part::Check(..) => None,
            });
            places
                .map(|place| (of_pair(&operation.register, place), datum.clone()))
                .collect()
        }
        Ask::Delete(_) | Ask::Get | Ask::GetOf(_) | Ask::Add(_) => Vec::new(),
    }
}

/// Whether a request whose answer is not known may have been done.
pub fn may_be_done(operation: &Operation, written: &Written) -> bool {
    let writes = to_be_written(operation);
    writes.is_empty() || writes.iter().any(|write| written.contains_key(write))
}

/// Each write of a znode's data, in order: when, where, what.
fn writes(ledger: &Ledger) -> Vec<(Zxid, String, String)> {
    let mut writes = Vec::new();
    for (zxid, transaction) in ledger.transactions() {
        for change in &transaction.changes {
            if let Change::CreateNode { path, data, .. } | Change::SetData { path, data, .. } =
                change
            {
                let datum = String::from_utf8_lossy(data).into_owned();
                writes.push((zxid, path.as_str().to_owned(), datum));
            }
        }
    }
    writes
}

/// Writes that are lost, done twice, or out of order.
pub fn violations(operations: &[Operation], ledger: &Ledger) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut pipelines: BTreeMap<String, (u64, Zxid)> = BTreeMap::new();
    for (zxid, path, datum) in writes(ledger) {
        let Some(number) = path
            .strip_prefix(PIPELINES)
            .and_then(|_| datum.parse().ok())
        else {
            continue;
        };
        if let Some((last, at)) = pipelines.insert(path.clone(), (number, zxid))
            && last >= number
        {
            let what = format!("{path}: {number} at {zxid} comes behind {last} at {at}");
            found.push(Violation::new(Kind::OutOfOrder, what));
        }
    }
    let written = written(ledger);
    for operation in operations {
        let writes = to_be_written(operation);
        let Some(first) = writes.first() else {
            continue;
        };
        let times_of = |write| written.get(write).map_or(&[][..], Vec::as_slice);
        let times = times_of(first).len();
        if writes
            .iter()
            .any(|write| times_of(write) != times_of(first))
        {
            let what = format!("{operation:?}: of {writes:?} only some were done together");
            found.push(Violation::new(Kind::Torn, what));
        }
        let done = match &operation.told {
            Some((_, Told::Done | Told::Version(_) | Told::Together(_))) => Some(1),
            Some(_) => Some(0),
            None => None,
        };
        let kind = match done {
            Some(done) if times < done => Kind::Lost,
            Some(done) if times > done => Kind::Twice,
            None if times > 1 => Kind::Twice,
            Some(_) | None => continue,
        };
        let what = format!("{operation:?} was done {times} times");
        found.push(Violation::new(kind, what));
    }
    found
}
