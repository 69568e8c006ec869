//! Locks by name, first come first served, with fencing tokens.
//!
//! A lock is a container with a ticket for each call that holds it or waits for it, in a line; the first ticket
//! holds it. Once more by the session that holds it is a ticket more, right behind its first: so each call has
//! a ticket of its own, and one that is given up takes nothing from another.

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
        /// hold at once, 1,000 in all (`holds`). A call that is given up while it waits leaves the line.
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

/// Times that a session can hold a lock at once.
const MAX_HOLDS: usize = 1000;

/// What a ticket's data end in once somebody has asked for the lock. What they begin with is, in a hold more, the
/// token.
const ASKED: &str = "asked";

fn acquire(name: String) -> Grant {
    let granted = acquire_until(&name, None);
    granted.expect("without a deadline the call waits")
}

fn acquire_within(name: String, wait_ms: u64) -> Option<Grant> {
    acquire_until(&name, Some(call::started().saturating_add(wait_ms)))
}

fn try_acquire(name: String) -> Option<Grant> {
    match Holds::of(&name) {
        None => Some(take(&name)),
        Some(holds) if holds.are_mine() => Some(holds.once_more()),
        Some(_) => None,
    }
}

fn release(name: String) -> i64 {
    let holds = Holds::mine_or_refuse(&name);
    if let Some(last) = holds.tickets.last() {
        tree::delete(&path!(name, last.name));
    }
    holds.tickets.len() as i64 - 1
}

fn holder(name: String) -> Option<Holding> {
    let holds = Holds::of(&name)?;
    let Grant {
        token,
        holds: count,
    } = holds.grant();
    Some(Holding {
        session: holds.first().stat.owner()?,
        token,
        holds: count,
    })
}

fn request_release(name: String) -> bool {
    let Some(holds) = Holds::of(&name) else {
        return false;
    };
    for ticket in &holds.tickets {
        if !ticket.text().ends_with(ASKED) {
            let data = format!("{} {ASKED}", ticket.text());
            tree::set(&path!(name, ticket.name), data.trim_start());
        }
    }
    true
}

fn release_requested(name: String) -> bool {
    Holds::mine_or_refuse(&name).are_asked_for()
}

fn wait_for_request(name: String) -> bool {
    let number = call::memo();
    let holds = match &number {
        None => Holds::mine_or_refuse(&name),
        Some(number) => match Holds::of(&name) {
            Some(holds) if holds.number() == number => holds,
            _ => return false,
        },
    };
    if !holds.are_asked_for() {
        park!(holds.number(); path!(name, holds.first().name));
    }
    true
}

/// The tickets that hold a lock: all of one session.
struct Holds<'a> {
    name: &'a str,
    tickets: Vec<Child>,
}

impl Holds<'_> {
    /// Those of the lock; none if it is free.
    fn of(name: &str) -> Option<Holds<'_>> {
        require_name(name);
        let first = tree::first(name)?;
        // Behind all of the first one's number, before the next number.
        let behind = Range {
            before: Some(format!("{}~", number(&first.name))),
            ..Range::all()
        };
        Some(Holds {
            name,
            tickets: tree::entries(name, &behind),
        })
    }

    fn mine_or_refuse(name: &str) -> Holds<'_> {
        match Holds::of(name) {
            Some(holds) if holds.are_mine() => holds,
            _ => refuse!("this session does not hold the lock {name:?}"),
        }
    }

    fn first(&self) -> &Child {
        self.tickets.first().expect("there is a first ticket")
    }

    /// That of the first ticket that the session had, which may be gone.
    fn number(&self) -> &str {
        number(&self.first().name)
    }

    fn are_mine(&self) -> bool {
        self.first().is_mine()
    }

    fn are_asked_for(&self) -> bool {
        self.first().text().ends_with(ASKED)
    }

    /// The transaction that made the first ticket that the session had: less than what comes behind has.
    fn token(&self) -> u64 {
        let first = self.first();
        let kept = first.text().split(' ').next();
        kept.and_then(|token| token.parse().ok())
            .unwrap_or(first.stat.created)
    }

    fn grant(&self) -> Grant {
        Grant {
            token: self.token(),
            holds: self.tickets.len() as i64,
        }
    }

    /// One more ticket, behind these and ahead of all that wait.
    fn once_more(mut self) -> Grant {
        let last = self.tickets.last().unwrap_or(self.first());
        let suffix = last.name.rsplit_once('.').map_or("0", |(_, suffix)| suffix);
        let next = suffix.parse::<usize>().expect("a suffix is a number") + 1;
        if next > MAX_HOLDS {
            let why = format!(
                "this session holds the lock {:?} {MAX_HOLDS} times",
                self.name
            );
            bound::reached("holds", &why);
        }
        let ticket = format!("{}.{next:04}", self.number());
        let asked = if self.are_asked_for() { ASKED } else { "" };
        let data = format!("{} {asked}", self.token());
        tree::create(&path!(self.name, ticket), data.trim_end(), mine());
        self.tickets = Holds::of(self.name).map_or(self.tickets, |holds| holds.tickets);
        self.grant()
    }
}

/// The number is all but the suffix of a hold more.
fn number(ticket: &str) -> &str {
    ticket.split('.').next().unwrap_or(ticket)
}

fn acquire_until(name: &str, deadline: Option<u64>) -> Option<Grant> {
    require_name(name);
    if let Some(ticket) = call::memo() {
        return wait(name, ticket, deadline);
    }
    match Holds::of(name) {
        None => Some(take(name)),
        Some(holds) if holds.are_mine() => Some(holds.once_more()),
        Some(_) => wait(name, stand_in_line(name), deadline),
    }
}

fn stand_in_line(name: &str) -> String {
    tree::create_sequential(name, "ticket-", "", mine())
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
    if let Some(ahead) = tree::child_before(name, &ticket) {
        if let Some(deadline) = deadline {
            if deadline <= call::now() {
                if tree::exists(&path).is_some() {
                    tree::delete(&path);
                }
                return None;
            }
            watch::time(deadline);
        }
        park!(ticket; path!(name, ahead));
    }
    if tree::exists(&path).is_none() {
        refuse!("the ticket for the lock {name:?} was taken out of the line");
    }
    Some(Holds::of(name)?.grant())
}
