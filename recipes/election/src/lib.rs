//! Leadership by name: ranked candidates, observers, and candidacies that no call waits for.
//!
//! An election is a line of candidates, in the order of rank and candidacy, and the leader's znode, which the
//! first of them makes when there is none. A candidate that entered without waiting has no call that would
//! do so in its place: then whoever waits or asks next does it.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:election@0.1.0;

    /// Leadership by name: one leader at a time. It goes with its session: when the leader's session
    /// ends, the first of the candidates leads, in the order of their ranks, and of their candidacies
    /// within a rank. A better candidate that comes later does not unseat who leads.
    ///
    /// A leader whose connection is lost does not learn at once that its session has ended: hand the
    /// token to whatever it commands.
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

        /// Who would lead.
        record candidacy {
            /// What it said of itself when it stood.
            candidate: string,
            /// The session.
            session: u64,
            /// The smallest leads first.
            rank: u32,
        }

        /// Some of those who would lead.
        record candidacy-page {
            /// The next one to lead first.
            candidates: list<candidacy>,
            /// The `after` of the next page; none if these were the last.
            next: option<string>,
        }

        /// Stands for election with rank 0, the best, and waits until it leads. `candidate` is for others
        /// to read: an address, say, of 1 KiB at most (`candidate-bytes`). A session that leads already goes
        /// on in the same term. An election has 1,000 candidacies that wait at most (`candidates`).
        campaign: func(name: string, candidate: string) -> term;

        /// The same with a rank: of those that wait, the smallest leads first.
        campaign-ranked: func(name: string, candidate: string, rank: u32) -> term;

        /// A latch: stands for election until the session ends or resigns, and does not wait; gives the
        /// term if it leads at once. A session that has entered already stands as before.
        enter: func(name: string, candidate: string, rank: u32) -> option<term>;

        /// Waits until this session leads. Refused if it has not entered.
        await-leadership: func(name: string) -> term;

        /// The term if this session leads.
        has-leadership: func(name: string) -> option<term>;

        /// Withdraws all of this session's candidacies, also while they wait, and with them the
        /// leadership; says whether it led.
        resign: func(name: string) -> bool;

        /// Who leads; none if nobody does.
        leader: func(name: string) -> option<leadership>;

        /// Waits until the leader is another than the one of the token `known`, or none if that is none;
        /// gives who leads then. Calling it with the last answer's token misses no leader but those that
        /// came and went in between.
        observe: func(name: string, known: option<u64>) -> option<leadership>;

        /// Who waits to lead, the next one first, if that fits one answer of 512 KiB. Refused if not:
        /// `candidates-after` tells of them too.
        candidates: func(name: string) -> list<candidacy>;

        /// Who waits behind `after`, which a page before has given: `most` at most, and what fits one answer.
        /// With none it begins with the next one to lead.
        candidates-after: func(name: string, after: option<string>, most: u32) -> candidacy-page;
    }

    world recipe {
        export election;
    }
"#
);

/// Candidacies of one election that wait: a session that enters or resigns looks for its own among them.
const MAX_CANDIDATES: u32 = 1000;

/// What a candidate says of itself.
const MAX_CANDIDATE_BYTES: usize = 1 << 10;

/// What a candidacy's data begin with, ahead of what the candidate said of itself: whether it goes with its call,
/// or was entered.
const CALLED: char = 'c';
const ENTERED: char = 'e';

/// Digits of a rank in a candidacy's name, so that byte order is order by rank.
const RANK_DIGITS: usize = 10;

fn campaign(name: String, candidate: String) -> Term {
    campaign_ranked(name, candidate, 0)
}

fn campaign_ranked(name: String, candidate: String, rank: u32) -> Term {
    require_name(&name);
    require_candidate(&candidate);
    if call::memo_bytes().is_none() {
        if let Some(term) = own_term(&name) {
            return term;
        }
        if is_vacant(&name) {
            return lead(&name, &candidate, call::session());
        }
    }
    let ticket = call::memo().unwrap_or_else(|| stand(&name, CALLED, &candidate, rank));
    lead_or_wait(&name, ticket)
}

fn enter(name: String, candidate: String, rank: u32) -> Option<Term> {
    require_name(&name);
    require_candidate(&candidate);
    if own_term(&name).is_none() && entered(&name).is_none() {
        stand(&name, ENTERED, &candidate, rank);
    }
    seat(&name);
    own_term(&name)
}

fn await_leadership(name: String) -> Term {
    require_name(&name);
    let ticket = match call::memo() {
        Some(ticket) => ticket,
        None => match (own_term(&name), entered(&name)) {
            (Some(term), _) => return term,
            (None, Some(ticket)) => ticket,
            (None, None) => refuse!("this session has not entered the election {name:?}"),
        },
    };
    lead_or_wait(&name, ticket)
}

fn has_leadership(name: String) -> Option<Term> {
    require_name(&name);
    seat(&name);
    own_term(&name)
}

fn resign(name: String) -> bool {
    require_name(&name);
    let led = own_term(&name).is_some();
    if led {
        tree::delete(&leader_path(&name));
    }
    let line = line_path(&name);
    for candidacy in tree::entries(&line, &Range::all()) {
        if candidacy.is_mine() {
            tree::delete(&path!(line, candidacy.name));
        }
    }
    seat(&name);
    led
}

fn leader(name: String) -> Option<Leadership> {
    require_name(&name);
    seat(&name);
    let node = tree::get(&leader_path(&name))?;
    Some(Leadership {
        candidate: node.text().to_owned(),
        session: node.stat.owner()?,
        token: node.stat.created,
    })
}

fn observe(name: String, known: Option<u64>) -> Option<Leadership> {
    let leadership = leader(name.clone());
    if leadership.as_ref().map(|leadership| leadership.token) == known {
        park!(""; leader_path(&name));
    }
    leadership
}

fn candidates(name: String) -> Vec<Candidacy> {
    require_name(&name);
    seat(&name);
    page::read(&line_path(&name), candidacy).all_or_refuse("candidates-after")
}

fn candidates_after(name: String, after: Option<String>, most: u32) -> CandidacyPage {
    require_name(&name);
    seat(&name);
    let page = page::read_after(&line_path(&name), after, most, candidacy);
    CandidacyPage {
        candidates: page.items,
        next: page.next,
    }
}

/// A candidacy, and its bytes as JSON.
fn candidacy(child: Child) -> (Option<Candidacy>, usize) {
    let candidate = child.text()[1..].to_owned();
    let bytes = 70 + page::json_bytes(&candidate);
    let rank = child.name[..RANK_DIGITS].parse();
    let candidacy = child.stat.owner().zip(rank.ok());
    let candidacy = candidacy.map(|(session, rank)| Candidacy {
        candidate,
        session,
        rank,
    });
    (candidacy, bytes)
}

fn require_candidate(candidate: &str) {
    bound::require_bytes("candidate-bytes", candidate, MAX_CANDIDATE_BYTES);
}

fn leader_path(name: &str) -> String {
    path!(name, "leader")
}

fn line_path(name: &str) -> String {
    path!(name, "candidates")
}

fn stand(name: &str, kind: char, candidate: &str, rank: u32) -> String {
    let prefix = format!("{rank:0RANK_DIGITS$}-");
    let data = format!("{kind}{candidate}");
    let line = line_path(name);
    let candidates = tree::exists(&line).map_or(0, |stat| stat.children);
    if candidates >= MAX_CANDIDATES {
        bound::reached(
            "candidates",
            &format!("{candidates} wait for {name:?} already"),
        );
    }
    tree::create_sequential(&line, &prefix, data, mine())
}

fn own_term(name: &str) -> Option<Term> {
    let stat = tree::exists(&leader_path(name))?;
    stat.is_mine().then_some(Term {
        token: stat.created,
    })
}

/// The candidacy that this session has entered.
fn entered(name: &str) -> Option<String> {
    let waiting = tree::entries(&line_path(name), &Range::all());
    waiting
        .into_iter()
        .find(|candidacy| candidacy.is_mine() && candidacy.text().starts_with(ENTERED))
        .map(|candidacy| candidacy.name)
}

/// Whether nobody leads, and nobody waits to.
fn is_vacant(name: &str) -> bool {
    tree::exists(&leader_path(name)).is_none() && tree::first(&line_path(name)).is_none()
}

fn lead(name: &str, candidate: &str, session: u64) -> Term {
    tree::create(&leader_path(name), candidate, Lifetime::Session(session));
    Term {
        token: call::transaction(),
    }
}

/// Makes the first candidate the leader if there is none, and no call of it will: that call may yet be given up,
/// and its session must not lead then.
fn seat(name: &str) {
    if tree::exists(&leader_path(name)).is_some() {
        return;
    }
    let line = line_path(name);
    if let Some(first) = tree::first(&line)
        && let Some(session) = first.stat.owner()
        && let Some(candidate) = first.text().strip_prefix(ENTERED)
    {
        lead(name, candidate, session);
        tree::delete(&path!(line, first.name));
    }
}

/// Parks until this candidacy is the first and nobody leads. Who stands behind a candidacy with a call watches
/// that one alone; the first, and who stands behind one without, watches the leader.
fn lead_or_wait(name: &str, ticket: String) -> Term {
    seat(name);
    let line = line_path(name);
    let path = path!(line, ticket);
    let candidacy = tree::get(&path);
    if let Some(term) = own_term(name) {
        // By another candidacy of this session, or this one was entered and is seated.
        if candidacy.is_some() {
            tree::delete(&path);
        }
        return term;
    }
    let Some(candidacy) = candidacy else {
        refuse!("this session has withdrawn from the election {name:?}");
    };
    let ahead = tree::entries(&line, &Range::before(&ticket, 1)).pop();
    if let Some(ahead) = ahead {
        if ahead.text().starts_with(ENTERED) {
            watch::node(&leader_path(name));
        }
        park!(ticket; path!(line, ahead.name), path);
    }
    if tree::exists(&leader_path(name)).is_some() {
        park!(ticket; leader_path(name), path);
    }
    let term = lead(name, &candidacy.text()[1..], call::session());
    tree::delete(&path);
    term
}
