//! Standing in line, which locks, elections, semaphores and queues share: take a ticket, see who stands
//! ahead, watch that one, wait.

use crate::{call, refuse, tree, watch};

/// What a ticket's name begins with.
const TICKET: &str = "ticket-";

/// A place at the head of a line.
pub struct Place {
    /// The ticket's path.
    pub path: String,
    /// The ticket's name: its path without the line.
    pub ticket: String,
    /// The transaction that made the ticket: a fencing token, since nobody who stands in the line later
    /// has a smaller one.
    pub token: u64,
    /// What the ticket carries.
    pub data: Vec<u8>,
}

/// Stands in `line`, a path, with a ticket that carries `data` and goes with the caller's session. Returns
/// when nobody stands ahead; until then the call is parked, and the run does not come back from here.
///
/// Refuses if the ticket has been taken out of the line meanwhile. The memo is the ticket's: an operation
/// that waits here has none of its own.
#[track_caller]
pub fn stand_in(line: &str, data: impl AsRef<[u8]>) -> Place {
    let data = data.as_ref();
    let Some(ticket) = call::memo() else {
        let ticket = tree::create_sequential(line, TICKET, data, tree::mine());
        return at_head(line, ticket, call::transaction(), data.to_owned());
    };
    let Some(node) = tree::get(&format!("{line}/{ticket}")) else {
        refuse!("the ticket was taken out of the line");
    };
    at_head(line, ticket, node.stat.created, node.data)
}

/// Parks unless the ticket is the first.
fn at_head(line: &str, ticket: String, token: u64, data: Vec<u8>) -> Place {
    let path = format!("{line}/{ticket}");
    if let Some(ahead) = tree::child_before(line, &ticket) {
        watch::node(&format!("{line}/{ahead}"));
        // Whoever takes the ticket away ends the wait.
        watch::node(&path);
        call::park(ticket);
    }
    Place {
        path,
        ticket,
        token,
        data,
    }
}

/// The number of a ticket, as in its name: grows from each ticket of the mount to the next, and is never
/// given twice, so it is a token too, from which the ticket is found again.
///
/// # Panics
///
/// If it is not the name of a ticket.
#[track_caller]
pub fn number(ticket: &str) -> u64 {
    let digits = ticket.strip_prefix(TICKET);
    let number = digits.and_then(|digits| digits.parse().ok());
    number.expect("a ticket's name ends in its number")
}

/// The name of the ticket that has this number.
pub fn ticket(number: u64) -> String {
    format!("{TICKET}{number:016}")
}
