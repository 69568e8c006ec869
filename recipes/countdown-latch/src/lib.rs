//! Countdown latches by name. A latch is its count, and below it a gate for as long as that is not zero:
//! who waits watches the gate alone, and so is woken once.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:countdown-latch@0.1.0;

    /// Countdown latches by name: whoever waits goes on when so many things have been done. A latch stays
    /// until it is removed; nothing of it goes with a session, so a worker that crashes has not counted.
    interface countdown-latch {
        /// Makes a latch with a count; says whether it did: one that is there is left as it is.
        start: func(name: string, count: u64) -> bool;

        /// Takes so many away, down to zero; says how many are left. Refused if there is no such latch.
        count-down: func(name: string, by: u64) -> u64;

        /// Waits until the count is zero. Refused if there is no such latch, or it is removed meanwhile.
        wait: func(name: string);

        /// The count; none if there is no such latch.
        count: func(name: string) -> option<u64>;

        /// Removes a latch; says whether there was one. Calls that wait for it are refused.
        remove: func(name: string) -> bool;
    }

    world recipe {
        export countdown-latch;
    }
"#
);

fn start(name: String, count: u64) -> bool {
    require_name(&name);
    if tree::exists(&name).is_some() {
        return false;
    }
    tree::create(&name, count.to_string(), Lifetime::Persistent);
    if count > 0 {
        tree::create(&gate(&name), "", Lifetime::Persistent);
    }
    true
}

fn count_down(name: String, by: u64) -> u64 {
    let Some(before) = count(name.clone()) else {
        refuse!("there is no latch {name:?}: start makes one");
    };
    let left = before.saturating_sub(by);
    if left != before {
        tree::set(&name, left.to_string());
        if left == 0 {
            tree::delete(&gate(&name));
        }
    }
    left
}

fn wait(name: String) {
    require_name(&name);
    let Some(latch) = tree::exists(&name) else {
        refuse!("there is no latch {name:?}");
    };
    // By its transaction: another of the same name may have been started meanwhile.
    let latch = latch.created.to_string();
    if call::memo().is_some_and(|waited_for| waited_for != latch) {
        refuse!("the latch {name:?} was removed, and another started");
    }
    let gate = gate(&name);
    if tree::exists(&gate).is_some() {
        park!(latch; gate);
    }
}

fn count(name: String) -> Option<u64> {
    require_name(&name);
    tree::get(&name).map(|node| node.parse())
}

fn remove(name: String) -> bool {
    require_name(&name);
    if tree::exists(&name).is_none() {
        return false;
    }
    let gate = gate(&name);
    if tree::exists(&gate).is_some() {
        tree::delete(&gate);
    }
    tree::delete(&name);
    true
}

fn gate(name: &str) -> String {
    path!(name, "gate")
}
