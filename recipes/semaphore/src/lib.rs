//! Weighted semaphores by name, first come first served.
//!
//! A semaphore is a persistent znode whose data are its permits; below it stand who holds some, and the line
//! of those that wait. Only the first of the line looks at the holders, so a release wakes one call.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:semaphore@0.1.0;

    /// Semaphores by name: never more permits are held than there are. First come first served, so a
    /// large demand is not starved by small ones that come later. Permits go with their session: when it
    /// ends, they are free.
    interface semaphore {
        /// Permits that are held.
        record grant {
            /// Which: `release` takes it. Grows in the order of the calls.
            token: u64,
        }

        /// How a semaphore stands.
        record level {
            /// How many permits there are.
            permits: u64,
            /// How many of them are held.
            held: u64,
            /// How many calls wait.
            waiting: u32,
        }

        /// Makes a semaphore, or changes how many permits it has. If fewer than are held, nobody loses
        /// any, and nobody gets any until enough have come back.
        set-permits: func(name: string, permits: u64);

        /// Waits its turn until so many are free, and takes them. Refused without `set-permits`, and if
        /// there are fewer in all.
        acquire: func(name: string, permits: u64) -> grant;

        /// The same if that needs no waiting, else none.
        try-acquire: func(name: string, permits: u64) -> option<grant>;

        /// Gives them back. Refused if this session does not hold them.
        release: func(name: string, token: u64);

        /// How it stands; none if there is no such semaphore.
        usage: func(name: string) -> option<level>;

        /// Removes a semaphore that nobody holds or waits for, else refuses; says whether there was one.
        remove: func(name: string) -> bool;
    }

    world recipe {
        export semaphore;
    }
"#
);

/// Holds of one semaphore at a time: whoever is first in line adds them up.
const MAX_HOLDS: u32 = 5000;

fn set_permits(name: String, permits: u64) {
    require_name(&name);
    tree::put(&name, permits.to_string());
}

fn acquire(name: String, permits: u64) -> Grant {
    let limit = limit(&name);
    // Also of one that has waited: there may be fewer by now, and those behind it are not to wait for ever.
    require_possible(&name, permits, limit);
    if call::memo_bytes().is_none()
        && let Some(granted) = take_at_once(&name, permits, limit)
    {
        return granted;
    }
    let place = line::stand_in(&path!(name, "line"), permits.to_string());
    let holders = path!(name, "holders");
    if !has_room(&holders, permits, limit) {
        watch::children(&holders);
        watch::node(&name);
        call::park(place.ticket);
    }
    tree::create(&path!(holders, place.ticket), permits.to_string(), mine());
    tree::delete(&place.path);
    Grant {
        token: line::number(&place.ticket),
    }
}

fn try_acquire(name: String, permits: u64) -> Option<Grant> {
    let limit = limit(&name);
    require_possible(&name, permits, limit);
    take_at_once(&name, permits, limit)
}

fn release(name: String, token: u64) {
    require_name(&name);
    let path = path!(name, "holders", line::ticket(token));
    if !tree::exists(&path).is_some_and(|stat| stat.is_mine()) {
        refuse!("this session holds no permits of {name:?} with the token {token}");
    }
    tree::delete(&path);
}

fn usage(name: String) -> Option<Level> {
    require_name(&name);
    let permits = tree::get(&name)?.parse();
    let waiting = tree::exists(&path!(name, "line")).map_or(0, |stat| stat.children);
    Some(Level {
        permits,
        held: held(&path!(name, "holders")).0,
        waiting,
    })
}

fn remove(name: String) -> bool {
    require_name(&name);
    match tree::try_delete(&name) {
        Ok(()) => true,
        Err(Error::NoNode) => false,
        Err(_) => refuse!("the semaphore {name:?} is in use"),
    }
}

/// How many permits there are.
fn limit(name: &str) -> u64 {
    require_name(name);
    match tree::get(name) {
        Some(node) => node.parse(),
        None => refuse!("there is no semaphore {name:?}: set-permits makes one"),
    }
}

/// Refuses what can never be given.
fn require_possible(name: &str, permits: u64, limit: u64) {
    if permits == 0 || permits > limit {
        refuse!("{permits} permits are asked for, and {name:?} has 1 to {limit} to give");
    }
}

/// If nobody waits and there is room.
fn take_at_once(name: &str, permits: u64, limit: u64) -> Option<Grant> {
    let holders = path!(name, "holders");
    let is_first = tree::children(&path!(name, "line"), &Range::first(1)).is_empty();
    (is_first && has_room(&holders, permits, limit)).then(|| {
        let ticket = tree::create_sequential(&holders, "ticket-", permits.to_string(), mine());
        Grant {
            token: line::number(&ticket),
        }
    })
}

fn has_room(holders: &str, permits: u64, limit: u64) -> bool {
    let (held, holds) = held(holders);
    holds < MAX_HOLDS && held.checked_add(permits).is_some_and(|sum| sum <= limit)
}

/// The permits that are held, and by how many holds.
fn held(holders: &str) -> (u64, u32) {
    let holds = tree::entries(holders, &Range::all());
    // Never beyond the largest number that was a limit, so the sum fits.
    let sum = holds.iter().map(Child::parse::<u64>).sum();
    (sum, holds.len() as u32)
}
