//! Leases by name: bound by time, not by a session.
//!
//! A lease is a line of tickets, as a fair lock is. A ticket that waits goes with its session; the one whose
//! turn has come gets a moment at which it ends instead, and no session holds it any more.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:lease@0.1.0;

    /// Leases by name: each has one holder at a time, until a moment that the holder can put off. It
    /// outlives the session that took it: whoever has its token renews and releases it, from any session.
    /// First come first served; waiting goes with the session.
    ///
    /// The moment is one of the server's clock. A holder counts from when it asked, not from when it got
    /// the answer, and leaves a margin; the token makes sure.
    interface lease {
        /// What the holder has.
        record lease {
            /// Grows from holder to holder: hand it to whatever the lease protects, which refuses
            /// smaller ones. Others can read it: it is no secret.
            token: u64,
            /// When it ends unless it is renewed, in milliseconds since the Unix epoch.
            expires: u64,
        }

        /// Who has the lease.
        record holding {
            /// What it said of itself.
            owner: string,
            /// As in its lease.
            token: u64,
            /// As in its lease.
            expires: u64,
        }

        /// Waits its turn, then has the lease for so many milliseconds, a year at most. `owner` is for
        /// others to read, and has 1 KiB at most (`owner-bytes`).
        acquire: func(name: string, owner: string, duration-ms: u64) -> lease;

        /// The same if that needs no waiting, else none.
        try-acquire: func(name: string, owner: string, duration-ms: u64) -> option<lease>;

        /// From now on for so many milliseconds; none if the lease has ended, or is another's now.
        renew: func(name: string, token: u64, duration-ms: u64) -> option<lease>;

        /// Ends the lease; says whether it still was that one.
        release: func(name: string, token: u64) -> bool;

        /// Who has it; none if nobody does.
        holder: func(name: string) -> option<holding>;
    }

    world recipe {
        export lease;
    }
"#
);

/// 366 days: longer is a mistake in the unit, or no lease.
const MAX_DURATION_MS: u64 = 366 * 24 * 3600 * 1000;

/// What a holder says of itself.
const MAX_OWNER_BYTES: usize = 1 << 10;

fn acquire(name: String, owner: String, duration_ms: u64) -> Lease {
    require_name(&name);
    require_owner(&owner);
    require_duration(duration_ms);
    let place = line::stand_in(&name, owner);
    let expires = call::now() + duration_ms;
    // Wakes nobody: who stands behind waits for this very ticket's end.
    tree::set_lifetime(&place.path, Lifetime::Until(expires));
    Lease {
        token: line::number(&place.ticket),
        expires,
    }
}

fn try_acquire(name: String, owner: String, duration_ms: u64) -> Option<Lease> {
    require_name(&name);
    require_owner(&owner);
    require_duration(duration_ms);
    tree::first(&name).is_none().then(|| {
        let expires = call::now() + duration_ms;
        let ticket = tree::create_sequential(&name, "ticket-", owner, Lifetime::Until(expires));
        Lease {
            token: line::number(&ticket),
            expires,
        }
    })
}

fn renew(name: String, token: u64, duration_ms: u64) -> Option<Lease> {
    require_duration(duration_ms);
    let path = held_path(&name, token)?;
    let expires = call::now() + duration_ms;
    tree::set_lifetime(&path, Lifetime::Until(expires));
    Some(Lease { token, expires })
}

fn release(name: String, token: u64) -> bool {
    match held_path(&name, token) {
        Some(path) => {
            tree::delete(&path);
            true
        }
        None => false,
    }
}

fn holder(name: String) -> Option<Holding> {
    require_name(&name);
    let first = tree::first(&name)?;
    // The first may be one that waits: the lease has just ended, and its turn comes.
    let Lifetime::Until(expires) = first.stat.lifetime else {
        return None;
    };
    Some(Holding {
        owner: first.text().to_owned(),
        token: line::number(&first.name),
        expires,
    })
}

fn require_owner(owner: &str) {
    bound::require_bytes("owner-bytes", owner, MAX_OWNER_BYTES);
}

fn require_duration(duration_ms: u64) {
    if duration_ms == 0 || duration_ms > MAX_DURATION_MS {
        refuse!("a lease is for 1 to {MAX_DURATION_MS} milliseconds, not {duration_ms}");
    }
}

/// The path of the ticket that has this token, if it is a lease and does not wait to be one.
fn held_path(name: &str, token: u64) -> Option<String> {
    require_name(name);
    let path = path!(name, line::ticket(token));
    let stat = tree::exists(&path)?;
    matches!(stat.lifetime, Lifetime::Until(_)).then_some(path)
}
