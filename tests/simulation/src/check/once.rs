//! Once: what was acknowledged is there, exactly once, and nothing else was done twice; each client's pipelined
//! writes are in their order.

use std::collections::BTreeMap;

use quorate_model::id::Zxid;
use quorate_model::write_set::Change;

use crate::history::{Ask, Operation, Told};
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

/// Whether a request whose answer is not known may have been done.
pub fn may_be_done(operation: &Operation, written: &Written) -> bool {
    match &operation.ask {
        Ask::Create(datum) | Ask::Set(datum, _) => {
            written.contains_key(&(operation.register.clone(), datum.clone()))
        }
        Ask::Delete(_) | Ask::Get | Ask::Add(_) => true,
    }
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
pub fn violations(operations: &[Operation], ledger: &Ledger) -> Vec<String> {
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
            found.push(format!(
                "{path}: {number} at {zxid} comes behind {last} at {at}"
            ));
        }
    }
    let written = written(ledger);
    for operation in operations {
        let (Ask::Create(datum) | Ask::Set(datum, _)) = &operation.ask else {
            continue;
        };
        let key = (operation.register.clone(), datum.clone());
        let times = written.get(&key).map_or(0, Vec::len);
        let done = match &operation.told {
            Some((_, Told::Done | Told::Version(_))) => Some(1),
            Some(_) => Some(0),
            None => None,
        };
        if done.map_or(times > 1, |done| done != times) {
            found.push(format!("{operation:?} was done {times} times"));
        }
    }
    found
}
