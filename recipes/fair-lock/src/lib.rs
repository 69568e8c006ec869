//! Locks by name, first come first served, with fencing tokens.
//!
//! A lock is a container with one ticket for each call that holds it or waits for it; the first ticket
//! holds it, and its data say how often. The lock is that line: there is nothing else to keep in step with it.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:fair-lock@0.1.0;

    /// Locks by name, first come first served. A lock goes with its session: when the session ends, the
    /// next in line has it. A lock that nobody holds or waits for leaves nothing behind.
    ///
    /// A holder whose connection is lost does not learn at once that its session has ended: hand the
    /// token to whatever the lock protects, and let that refuse smaller ones.
    interface lock {
        /// What the holder has.
        record grant {
            /// Grows from holder to holder: hand it to whatever the lock protects, which refuses smaller
            /// ones.
            token: u64,
            /// How often this session holds the lock now: as often it has to be released.
            holds: s64,
        }

        /// Who has the lock.
        record holding {
            /// The session.
            session: u64,
            /// As in its grant.
            token: u64,
            /// As in its grant.
            holds: s64,
        }

        /// Waits its turn, first come first served. A session that holds the lock already gets one more
        /// hold at once. A call that is given up while it waits leaves the line.
        acquire: func(name: string) -> grant;

        /// The same if that needs no waiting, else none.
        try-acquire: func(name: string) -> option<grant>;

        /// The same, but gives none if its turn has not come within so many milliseconds.
        acquire-within: func(name: string, wait-ms: u64) -> option<grant>;

        /// Gives back one hold; says how many are left. Refused if this session does not hold the lock.
        release: func(name: string) -> s64;

        /// Who holds the lock; none if nobody does.
        holder: func(name: string) -> option<holding>;

        /// Asks the holder to let go, which it is free to do; says whether there is one. It is asked
        /// until all its holds are given back.
        request-release: func(name: string) -> bool;

        /// Whether somebody asks this session to let go. Refused if it does not hold the lock.
        release-requested: func(name: string) -> bool;

        /// Waits until somebody asks this session to let go, and gives true; or until it does not hold
        /// the lock any more, and gives false. Refused if it does not hold the lock.
        wait-for-request: func(name: string) -> bool;
    }

    world recipe {
        export lock;
    }
"#
);

/// What stands behind the number of holds once somebody has asked for the lock.
const ASKED: &str = " asked";

fn acquire(name: String) -> Grant {
    let granted = acquire_until(&name, None);
    granted.expect("without a deadline the call waits")
}

fn acquire_within(name: String, wait_ms: u64) -> Option<Grant> {
    acquire_until(&name, Some(call::started().saturating_add(wait_ms)))
}

fn try_acquire(name: String) -> Option<Grant> {
    require_name(&name);
    match tree::first(&name) {
        None => Some(take(&name)),
        Some(held) if held.is_mine() => Some(hold_once_more(&name, &held)),
        Some(_) => None,
    }
}

fn release(name: String) -> i64 {
    require_name(&name);
    let held = mine_or_refuse(&name);
    let (holds, asked) = read(held.text());
    let ticket = path!(name, held.name);
    if holds > 1 {
        tree::set(&ticket, write(holds - 1, asked));
    } else {
        tree::delete(&ticket);
    }
    holds - 1
}

fn holder(name: String) -> Option<Holding> {
    require_name(&name);
    let held = tree::first(&name)?;
    Some(Holding {
        session: held.stat.owner()?,
        token: held.stat.created,
        holds: read(held.text()).0,
    })
}

fn request_release(name: String) -> bool {
    require_name(&name);
    let Some(held) = tree::first(&name) else {
        return false;
    };
    let (holds, asked) = read(held.text());
    if !asked {
        tree::set(&path!(name, held.name), write(holds, true));
    }
    true
}

fn release_requested(name: String) -> bool {
    require_name(&name);
    read(mine_or_refuse(&name).text()).1
}

fn wait_for_request(name: String) -> bool {
    require_name(&name);
    let ticket = call::memo().unwrap_or_else(|| mine_or_refuse(&name).name);
    let path = path!(name, ticket);
    match tree::get(&path) {
        None => false,
        Some(held) if read(held.text()).1 => true,
        Some(_) => park!(ticket; path),
    }
}

fn acquire_until(name: &str, deadline: Option<u64>) -> Option<Grant> {
    require_name(name);
    if let Some(ticket) = call::memo() {
        return wait(name, ticket, deadline);
    }
    match tree::first(name) {
        None => Some(take(name)),
        Some(held) if held.is_mine() => Some(hold_once_more(name, &held)),
        Some(_) => wait(name, stand_in_line(name), deadline),
    }
}

/// A ticket is good for one hold, once its turn comes.
fn stand_in_line(name: &str) -> String {
    tree::create_sequential(name, "ticket-", write(1, false), mine())
}

/// Takes the lock, for which nobody stands in line.
fn take(name: &str) -> Grant {
    stand_in_line(name);
    Grant {
        token: call::transaction(),
        holds: 1,
    }
}

/// Parks until nobody stands ahead of the ticket, or the deadline has come.
fn wait(name: &str, ticket: String, deadline: Option<u64>) -> Option<Grant> {
    let path = path!(name, ticket);
    let Some(node) = tree::get(&path) else {
        refuse!("the ticket for the lock {name:?} was taken out of the line");
    };
    if let Some(ahead) = tree::child_before(name, &ticket) {
        if let Some(deadline) = deadline {
            if deadline <= call::now() {
                tree::delete(&path);
                return None;
            }
            watch::time(deadline);
        }
        park!(ticket; path!(name, ahead));
    }
    Some(Grant {
        token: node.stat.created,
        holds: read(node.text()).0,
    })
}

fn hold_once_more(name: &str, held: &Child) -> Grant {
    let (holds, asked) = read(held.text());
    tree::set(&path!(name, held.name), write(holds + 1, asked));
    Grant {
        token: held.stat.created,
        holds: holds + 1,
    }
}

fn mine_or_refuse(name: &str) -> Child {
    match tree::first(name) {
        Some(held) if held.is_mine() => held,
        _ => refuse!("this session does not hold the lock {name:?}"),
    }
}

/// A ticket's data: the holds, and whether somebody has asked for the lock.
fn read(data: &str) -> (i64, bool) {
    let (holds, asked) = match data.strip_suffix(ASKED) {
        Some(holds) => (holds, true),
        None => (data, false),
    };
    (
        holds.parse().expect("a ticket says how often it holds"),
        asked,
    )
}

fn write(holds: i64, asked: bool) -> String {
    format!("{holds}{}", if asked { ASKED } else { "" })
}
