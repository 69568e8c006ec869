//! Several locks at once, free of deadlock.
//!
//! Each name is a line of tickets, as in a fair lock. A call stands in all its lines at once and with one
//! number, so of any two calls the same one stands ahead in every line that both stand in: no circle can arise.

use std::collections::BTreeSet;

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:multi-lock@0.1.0;

    /// Locks by name, of which a call takes several at once: all or none, first come first served, and
    /// whatever the names and their order are, calls do not lock each other out. Who keeps locks and asks
    /// for more can: take all at once. Locks go with their session.
    interface multi-lock {
        /// What the holder has.
        record grant {
            /// Grows from holder to holder of any of the names: hand it to whatever the locks protect.
            token: u64,
        }

        /// Who has a lock.
        record holding {
            /// The session.
            session: u64,
            /// As in its grant.
            token: u64,
        }

        /// Waits until nobody that came before holds or waits for any of them, then holds all: 64 names at
        /// most (`names`), of 8 KiB together (`names-bytes`). Refused if this session holds one of them
        /// already.
        acquire: func(names: list<string>) -> grant;

        /// The same if that needs no waiting, else none.
        try-acquire: func(names: list<string>) -> option<grant>;

        /// Gives them back, all or some. Refused if this session does not hold all that are named.
        release: func(names: list<string>);

        /// Who holds a lock; none if nobody does.
        holder: func(name: string) -> option<holding>;
    }

    world recipe {
        export multi-lock;
    }
"#
);

/// Names in one call: each costs a znode, and whoever looks at one of them looks at all.
const MAX_NAMES: usize = 64;

/// Their bytes in all: each of the call's znodes has all names.
const MAX_NAMES_BYTES: usize = 8 << 10;

fn acquire(names: Vec<String>) -> Grant {
    let names = distinct(names);
    let ticket = call::memo().unwrap_or_else(|| {
        refuse_what_is_mine(&names);
        stand_in(&names)
    });
    for name in &names {
        let path = path!(name, ticket);
        if tree::exists(&path).is_none() {
            refuse!("the ticket for the lock {name:?} was taken out of the line");
        }
        // Nobody ever comes to stand ahead, so the lines that were looked at stay as they are.
        if let Some(ahead) = tree::child_before(name, &ticket) {
            park!(ticket; path!(name, ahead), path);
        }
    }
    Grant {
        token: line::number(&ticket),
    }
}

fn try_acquire(names: Vec<String>) -> Option<Grant> {
    let names = distinct(names);
    refuse_what_is_mine(&names);
    names
        .iter()
        .all(|name| tree::first(name).is_none())
        .then(|| Grant {
            token: line::number(&stand_in(&names)),
        })
}

fn release(names: Vec<String>) {
    for name in distinct(names) {
        match held(&name) {
            Some(held) if held.is_mine() => tree::delete(&path!(name, held.name)),
            _ => refuse!("this session does not hold the lock {name:?}"),
        }
    }
}

fn holder(name: String) -> Option<Holding> {
    require_name(&name);
    let held = held(&name)?;
    Some(Holding {
        session: held.stat.owner()?,
        token: line::number(&held.name),
    })
}

fn distinct(names: Vec<String>) -> BTreeSet<String> {
    if names.is_empty() {
        refuse!("no names: it takes at least one");
    }
    bound::require_most("names", names.len() as u64, MAX_NAMES as u64);
    let bytes: usize = names.iter().map(String::len).sum();
    bound::require_most("names-bytes", bytes as u64, MAX_NAMES_BYTES as u64);
    for name in &names {
        require_name(name);
    }
    names.into_iter().collect()
}

fn refuse_what_is_mine(names: &BTreeSet<String>) {
    for name in names {
        if held(name).is_some_and(|held| held.is_mine()) {
            refuse!("this session holds the lock {name:?} already: it would wait for itself");
        }
    }
}

/// The ticket that holds this lock: the first, unless its call still waits for others of its names.
fn held(name: &str) -> Option<Child> {
    let first = tree::first(name)?;
    let is_first = |name| tree::child_before(name, &first.name).is_none();
    let holds = first.text().split('/').all(is_first);
    holds.then_some(first)
}

/// A ticket of the same name in every line, which carries the names: none has a slash.
fn stand_in(names: &BTreeSet<String>) -> String {
    let all = names.iter().cloned().collect::<Vec<_>>().join("/");
    let mut ticket = None;
    for name in names {
        match &ticket {
            None => ticket = Some(tree::create_sequential(name, "ticket-", &all, mine())),
            Some(ticket) => tree::create(&path!(name, ticket), &all, mine()),
        }
    }
    ticket.expect("there is a name")
}
