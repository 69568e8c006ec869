//! Standing calls (rule C10): the call of a mount that no client makes.

use quorate_model::call::{Fingerprint, ParkedCall, Retry};
use quorate_model::id::CallId;
use quorate_model::recipe::Mount;
use quorate_model::write_set::Change;

use crate::apply::Records as _;
use crate::view::View;

/// After the first failed run, in milliseconds; after each further one in a row it is twice as long.
const RETRY_MS: u64 = 1_000;

/// The longest pause between two runs that fail, in milliseconds.
const MAX_RETRY_MS: u64 = 60_000;

/// A mount was made, or goes on with another component: its standing call runs from its beginning, right behind
/// this transaction, and keeps what watches it has until it parks again.
pub(crate) fn begin(view: &mut View, mount: &Mount) {
    let id = CallId::standing(mount.mounted);
    if !mount.exports.standing {
        return end(view, mount);
    }
    let before = view.parked(id);
    view.change(Change::Park(Box::new(ParkedCall {
        id,
        mount: mount.path.clone(),
        operation: String::new(),
        arguments: String::new(),
        fingerprint: Fingerprint([0; 16]),
        identities: Vec::new(),
        started: view.moment().time,
        deadline: None,
        age: mount.mounted,
        memo: None,
        watches: before.map_or_else(Vec::new, |before| before.watches),
        created: Vec::new(),
        marked: true,
        suspected: 0,
        retry: None,
    })));
}

/// Its mount is going.
pub(crate) fn end(view: &mut View, mount: &Mount) {
    let id = CallId::standing(mount.mounted);
    if view.parked(id).is_some() {
        view.change(Change::Unpark(id));
    }
}

/// Its run has failed: it keeps the memo and the watches of its last good one, and is tried again, ever more
/// slowly. Gives the pause in milliseconds.
pub(crate) fn fail(view: &mut View, parked: &ParkedCall) -> u64 {
    let failures = parked.retry.map_or(0, |retry| retry.failures);
    let pause_ms = RETRY_MS
        .saturating_mul(1 << failures.min(32))
        .min(MAX_RETRY_MS);
    let retry = Retry {
        at: view.moment().time.plus(pause_ms),
        failures: failures.saturating_add(1),
    };
    view.change(Change::Park(Box::new(ParkedCall {
        marked: false,
        suspected: 0,
        retry: Some(retry),
        ..parked.clone()
    })));
    pause_ms
}
