//! Read-write locks by name, first come first served.
//!
//! A lock is two lines, of readers and of writers, whose tickets have their numbers from one sequence. A
//! reader has the lock when no writer stands ahead of it, a writer when nobody does. So a reader watches
//! one writer, and only the first of the writers that wait watches readers.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:read-write-lock@0.1.0;

    /// Read-write locks by name: many readers or one writer, first come first served, so that neither
    /// starves. A hold goes with its session. A lock that nobody holds or waits for leaves nothing behind.
    ///
    /// Each hold is one by itself, known by its token: a session that asks for the lock again while it
    /// writes waits for itself. `downgrade` makes a reader of a writer.
    interface read-write-lock {
        /// A hold of the lock.
        record grant {
            /// Grows in the order in which the lock was asked for, so from writer to writer: hand it to
            /// whatever the lock protects. `release` takes it.
            token: u64,
        }

        /// Who has the lock.
        record holder {
            /// The session.
            session: u64,
            /// As in its grant.
            token: u64,
            /// Whether it writes; else it reads.
            writes: bool,
        }

        /// Some of those who have the lock.
        record holder-page {
            /// In the order of their tokens.
            holders: list<holder>,
            /// The `after` of the next page; none if these were the last.
            next: option<u64>,
        }

        /// Waits until every writer that came before is done.
        acquire-read: func(name: string) -> grant;

        /// Waits until everybody that came before is done.
        acquire-write: func(name: string) -> grant;

        /// Reads if that needs no waiting, else none.
        try-acquire-read: func(name: string) -> option<grant>;

        /// Writes if that needs no waiting, else none.
        try-acquire-write: func(name: string) -> option<grant>;

        /// Makes a reader of a writer, and nobody writes in between; the token stays. Refused if this
        /// session does not write with that token.
        downgrade: func(name: string, token: u64) -> grant;

        /// Gives back a hold. Refused if this session has none of that token.
        release: func(name: string, token: u64);

        /// Who has the lock: one writer, or the readers. Refused if those are more than 5,000:
        /// `holders-after` tells of them too.
        holders: func(name: string) -> list<holder>;

        /// Who has the lock with a token above `after`, `most` at most. With none it begins with the
        /// smallest.
        holders-after: func(name: string, after: option<u64>, most: u32) -> holder-page;
    }

    world recipe {
        export read-write-lock;
    }
"#
);

fn acquire_read(name: String) -> Grant {
    let (readers, writers) = lines(&name);
    let ticket = call::memo().unwrap_or_else(|| stand_in(&readers));
    if let Some(ahead) = tree::child_before(&writers, &ticket) {
        park!(ticket; path!(writers, ahead), path!(readers, ticket));
    }
    grant(&readers, &ticket)
}

fn acquire_write(name: String) -> Grant {
    let (readers, writers) = lines(&name);
    let ticket = call::memo().unwrap_or_else(|| stand_in(&writers));
    for line in [&writers, &readers] {
        if let Some(ahead) = tree::child_before(line, &ticket) {
            park!(ticket; path!(line, ahead), path!(writers, ticket));
        }
    }
    grant(&writers, &ticket)
}

fn try_acquire_read(name: String) -> Option<Grant> {
    let (readers, writers) = lines(&name);
    is_empty(&writers).then(|| grant(&readers, &stand_in(&readers)))
}

fn try_acquire_write(name: String) -> Option<Grant> {
    let (readers, writers) = lines(&name);
    (is_empty(&writers) && is_empty(&readers)).then(|| grant(&writers, &stand_in(&writers)))
}

fn downgrade(name: String, token: u64) -> Grant {
    let (readers, writers) = lines(&name);
    let ticket = line::ticket(token);
    let path = path!(writers, ticket);
    let is_mine = tree::exists(&path).is_some_and(|stat| stat.is_mine());
    let is_first = [&writers, &readers]
        .iter()
        .all(|line| tree::child_before(line, &ticket).is_none());
    if !is_mine || !is_first {
        refuse!("this session does not write the lock {name:?} with the token {token}");
    }
    // Its number stays, so it stands ahead of every writer that waits.
    tree::create(&path!(readers, ticket), "", tree::mine());
    tree::delete(&path);
    Grant { token }
}

fn release(name: String, token: u64) {
    let (readers, writers) = lines(&name);
    let ticket = line::ticket(token);
    for line in [readers, writers] {
        let path = path!(line, ticket);
        if tree::exists(&path).is_some_and(|stat| stat.is_mine()) {
            return tree::delete(&path);
        }
    }
    refuse!("this session has no hold of the lock {name:?} with the token {token}");
}

fn holders(name: String) -> Vec<Holder> {
    holders_behind(&name, None, u32::MAX).all_or_refuse("holders-after")
}

fn holders_after(name: String, after: Option<u64>, most: u32) -> HolderPage {
    let page = holders_behind(&name, after, most);
    HolderPage {
        holders: page.items,
        next: page.next.as_deref().map(line::number),
    }
}

fn holders_behind(name: &str, after: Option<u64>, most: u32) -> page::Page<Holder> {
    let (readers, writers) = lines(name);
    let holder = |writes| {
        move |ticket: Child| {
            let token = line::number(&ticket.name);
            let holder = ticket.stat.owner().map(|session| Holder {
                session,
                token,
                writes,
            });
            (holder, 90)
        }
    };
    let writer = tree::first(&writers).map(|writer| writer.name);
    let first_reader = tree::first(&readers).map(|reader| reader.name);
    let after = after.map(line::ticket);
    // Only the first of both lines holds the lock, or the readers ahead of the first writer.
    let writes = match (&writer, &first_reader) {
        (Some(writer), Some(reader)) => writer < reader,
        (writer, _) => writer.is_some(),
    };
    let range = |before| Range {
        after,
        before,
        ..Range::all()
    };
    if writes {
        let mut page = page::read_range(&writers, range(None), 1, holder(true));
        page.next = None;
        page.items
            .retain(|it| Some(line::ticket(it.token)) == writer);
        return page;
    }
    page::read_range(&readers, range(writer), most, holder(false))
}

/// The readers' and the writers'.
fn lines(name: &str) -> (String, String) {
    require_name(name);
    (path!(name, "readers"), path!(name, "writers"))
}

fn stand_in(line: &str) -> String {
    tree::create_sequential(line, "ticket-", "", mine())
}

fn is_empty(line: &str) -> bool {
    tree::children(line, &Range::first(1)).is_empty()
}

fn grant(line: &str, ticket: &str) -> Grant {
    if tree::exists(&path!(line, ticket)).is_none() {
        refuse!("the ticket was taken out of the line");
    }
    Grant {
        token: line::number(ticket),
    }
}
