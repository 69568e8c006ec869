//! Leadership by name, in the order of candidacy.
//!
//! An election is a container with one ticket for each candidacy; the first ticket leads, and its data are
//! what the candidate said of itself.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:election@0.1.0;

    /// Leadership by name, in the order of candidacy. It goes with its session: when the leader's session
    /// ends, the next candidate leads.
    interface election {
        /// What the leader has.
        record term {
            /// Grows from leader to leader: hand it to whatever the leader commands, which refuses
            /// smaller ones.
            token: u64,
        }

        /// Who leads.
        record leadership {
            /// What it said of itself when it stood.
            candidate: string,
            /// The session.
            session: u64,
            /// As in its term.
            token: u64,
        }

        /// Stands for election and waits until it leads. `candidate` is for others to read: an address,
        /// say. A session that leads already goes on in the same term.
        campaign: func(name: string, candidate: string) -> term;

        /// Withdraws all of this session's candidacies, also while they wait, and with them the
        /// leadership; says whether it led.
        resign: func(name: string) -> bool;

        /// Who leads; none if nobody does.
        leader: func(name: string) -> option<leadership>;
    }

    world recipe {
        export election;
    }
"#
);

fn campaign(name: String, candidate: String) -> Term {
    require_name(&name);
    if call::memo_bytes().is_none()
        && let Some(first) = tree::first(&name)
        && first.is_mine()
    {
        return Term {
            token: first.stat.created,
        };
    }
    let place = line::stand_in(&name, candidate);
    Term { token: place.token }
}

fn resign(name: String) -> bool {
    require_name(&name);
    let mut led = false;
    for (place, ticket) in tree::entries(&name, &Range::all()).iter().enumerate() {
        if ticket.is_mine() {
            tree::delete(&path!(name, ticket.name));
            led |= place == 0;
        }
    }
    led
}

fn leader(name: String) -> Option<Leadership> {
    require_name(&name);
    let first = tree::first(&name)?;
    Some(Leadership {
        candidate: first.text().to_owned(),
        session: first.stat.owner()?,
        token: first.stat.created,
    })
}
