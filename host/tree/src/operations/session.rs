//! Sessions: open, attach to another connection, end.

use quorate_model::id::{Owner, SessionId};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::request::{Password, Request};
use quorate_model::write_set::Change;

use crate::apply::Records;
use crate::operations::znode::delete_node;
use crate::state::{IndexKey, Session};
use crate::view::View;

/// Makes a global session of the one that is local to the owner's server.
pub(crate) fn upgrade(
    view: &mut View,
    session: SessionId,
    owner: Option<Owner>,
    password: Password,
    timeout_ms: u32,
) -> Result<Outcome, Refusal> {
    let owner = owner
        .filter(|_| session.is_local() && view.session(session).is_none())
        .ok_or(Refusal::SessionExpired)?;
    view.change(Change::UpgradeSession {
        session,
        password,
        timeout_ms,
        owner,
    });
    Ok(Outcome::Session {
        session,
        password,
        timeout_ms,
    })
}

/// Opens a session; its id is the transaction's zxid.
pub(crate) fn open(
    view: &mut View,
    owner: Option<Owner>,
    password: Password,
    timeout_ms: u32,
) -> Outcome {
    view.change(Change::OpenSession {
        password,
        timeout_ms,
        owner,
    });
    Outcome::Session {
        session: SessionId(view.moment().zxid.0),
        password,
        timeout_ms,
    }
}

/// Moves a session to another connection (rule W3).
pub(crate) fn attach(
    view: &mut View,
    session: SessionId,
    owner: Option<Owner>,
    password: Password,
    timeout_ms: u32,
) -> Result<Outcome, Refusal> {
    let found = view.session(session).ok_or(Refusal::SessionExpired)?;
    // A wrong password is answered like an expired session, as in ZooKeeper: it tells nothing.
    if found.password != password || found.owner.is_none() || owner.is_none() {
        return Err(Refusal::SessionExpired);
    }
    view.change(Change::MoveSession {
        session,
        owner,
        timeout_ms,
    });
    Ok(Outcome::Session {
        session,
        password,
        timeout_ms,
    })
}

/// The session of a request, if the request may write in it.
pub(crate) fn expect_owner(
    view: &View,
    session: SessionId,
    owner: Option<Owner>,
) -> Result<Session, Refusal> {
    let found = view.session(session).ok_or(Refusal::SessionExpired)?;
    if found.owner != owner {
        return Err(Refusal::SessionMoved);
    }
    Ok(found)
}

/// Whether the request is of a session that is local to its server, which minds the session's owner and end.
pub(crate) fn is_local(request: &Request) -> bool {
    request.session.is_local() && request.owner.is_none()
}

/// Refuses a request that may not write znodes: see [`expect_owner`].
pub(crate) fn expect_writer(view: &View, request: &Request) -> Result<(), Refusal> {
    match is_local(request) {
        true => Ok(()),
        false => expect_owner(view, request.session, request.owner).map(drop),
    }
}

/// Ends a session: its parked calls go first, so that they are not woken by their own tickets
/// (rule C3), then its znodes, then the session and its answers. One transaction, however many there are.
pub(crate) fn close(view: &mut View, session: SessionId) {
    for call in view.parked_of(session) {
        view.change(Change::Unpark(call));
    }
    let from = IndexKey::Ephemeral(session, ZnodePath::root());
    let its_own =
        |key: &IndexKey| matches!(key, IndexKey::Ephemeral(owner, _) if *owner == session);
    for key in view.indexed(from, its_own, usize::MAX) {
        if let IndexKey::Ephemeral(_, path) = key {
            delete_node(view, &path);
        }
    }
    view.change(Change::CloseSession { session });
}
