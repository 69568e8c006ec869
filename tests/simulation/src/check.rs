//! The checker: whether what clients saw and what servers applied can be, if every promise is kept.

pub mod linearizable;
pub mod locks;
pub mod once;

use std::collections::BTreeMap;

use crate::history::{History, Operation};
use crate::ledger::Ledger;

/// All violations; none if everything is as it must be.
pub fn violations(history: &History, ledger: &Ledger) -> Vec<String> {
    let mut found = history.complaints();
    found.extend(ledger.violations());
    found.extend(once::violations(&history.operations(), ledger));
    found.extend(locks::violations(
        &history.holds(),
        &ledger.ended_sessions(),
    ));
    let mut registers: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    let written = once::written(ledger);
    for operation in history.operations() {
        // The order in a pipeline is checked by what was applied, and so many at once have too many orders to try.
        if operation.register.starts_with(once::PIPELINES) {
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
            linearizable::Verdict::TooManyStates => found.push(format!(
                "{register}: not decided: the {} operations have too many possible orders",
                operations.len()
            )),
            linearizable::Verdict::Not { stuck } => found.push(format!(
                "{register}: not linearizable: no order of its {} operations explains {stuck:?}",
                operations.len()
            )),
        }
    }
    found
}
