//! Locks by name, first come first served, with fencing tokens.
//!
//! A lock is a container with one ticket for each session that holds it or waits for it; the first ticket
//! holds it, and its data say how often. The lock is that line: there is nothing else to keep in step with it.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:fair-lock@0.1.0;

    /// Locks by name, first come first served. A lock goes with its session: when the session ends, the
    /// next in line has it. A lock that nobody holds or waits for leaves nothing behind.
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
        /// hold at once.
        acquire: func(name: string) -> grant;

        /// The same if that needs no waiting, else none.
        try-acquire: func(name: string) -> option<grant>;

        /// Gives back one hold; says how many are left. Refused if this session does not hold the lock.
        release: func(name: string) -> s64;

        /// Who holds the lock; none if nobody does.
        holder: func(name: string) -> option<holding>;
    }

    world recipe {
        export lock;
    }
"#
);

fn acquire(name: String) -> Grant {
    require_name(&name);
    if let Some(ticket) = call::memo() {
        return wait(&name, ticket);
    }
    match tree::first(&name) {
        None => take(&name),
        Some(held) if held.is_mine() => hold_once_more(&name, &held),
        Some(_) => wait(&name, stand_in_line(&name)),
    }
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
    let held = match tree::first(&name) {
        Some(held) if held.is_mine() => held,
        _ => refuse!("this session does not hold the lock {name:?}"),
    };
    let left = held.parse::<i64>() - 1;
    let ticket = path!(name, held.name);
    if left > 0 {
        tree::set(&ticket, left.to_string());
    } else {
        tree::delete(&ticket);
    }
    left
}

fn holder(name: String) -> Option<Holding> {
    require_name(&name);
    let held = tree::first(&name)?;
    Some(Holding {
        session: held.stat.owner()?,
        token: held.stat.created,
        holds: held.parse(),
    })
}

/// A ticket is good for one hold, once its turn comes.
fn stand_in_line(name: &str) -> String {
    tree::create_sequential(name, "ticket-", "1", mine())
}

/// Takes the lock, for which nobody stands in line.
fn take(name: &str) -> Grant {
    stand_in_line(name);
    Grant {
        token: call::transaction(),
        holds: 1,
    }
}

/// Parks until nobody stands ahead of the ticket.
fn wait(name: &str, ticket: String) -> Grant {
    if let Some(ahead) = tree::child_before(name, &ticket) {
        park!(ticket; path!(name, ahead));
    }
    let Some(node) = tree::get(&path!(name, ticket)) else {
        refuse!("the ticket for the lock {name:?} was taken out of the line");
    };
    Grant {
        token: node.stat.created,
        holds: node.parse(),
    }
}

fn hold_once_more(name: &str, held: &Child) -> Grant {
    let holds = held.parse::<i64>() + 1;
    tree::set(&path!(name, held.name), holds.to_string());
    Grant {
        token: held.stat.created,
        holds,
    }
}
