//! Once: what was acknowledged is there, exactly once, and nothing else was done twice; each client's pipelined
//! writes are in their order.

use std::collections::BTreeMap;

use quorate_model::id::Zxid;
use quorate_model::write_set::Change;

use crate::history::{Ask, Operation, Told};
use crate::ledger::Ledger;

/// Below this znode each client has one of its own, which it sets to growing numbers.
pub const PIPELINES: &str = "/pipelines/";

/// Writes that are lost, done twice, or out of order.
pub fn violations(operations: &[Operation], ledger: &Ledger) -> Vec<String> {
    let mut found = Vec::new();
    // Every datum that a client writes is unique.
    let mut written: BTreeMap<(String, String), Vec<Zxid>> = BTreeMap::new();
    let mut pipelines: BTreeMap<String, (u64, Zxid)> = BTreeMap::new();
    for (zxid, transaction) in ledger.transactions() {
        for change in &transaction.changes {
            let (Change::CreateNode { path, data, .. } | Change::SetData { path, data, .. }) =
                change
            else {
                continue;
            };
            let path = path.as_str().to_owned();
            let text = String::from_utf8_lossy(data).into_owned();
            if path.starts_with(PIPELINES) {
                let number = text.parse().unwrap_or(0);
                let before = pipelines.insert(path.clone(), (number, zxid));
                if let Some((last, at)) = before
                    && last >= number
                {
                    found.push(format!(
                        "{path}: {number} at {zxid} comes behind {last} at {at}"
                    ));
                }
            }
            written.entry((path, text)).or_default().push(zxid);
        }
    }
    for operation in operations {
        let (Ask::Create(data) | Ask::Set(data, _)) = &operation.ask else {
            continue;
        };
        let key = (operation.register.clone(), data.clone());
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
