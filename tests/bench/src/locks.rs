//! A lock that goes around among clients: by the recipe, and client-side as kazoo and Curator do it.

use anyhow::{Context, Result, bail, ensure};

use crate::measure::Tally;
use crate::session::{
    CALL, DELETE, EPHEMERAL_SEQUENTIAL, EXISTS, GET_CHILDREN, NO_NODE, Session, XID_EVENT, int_at,
};

/// Statuses of a call that are expected here.
const RETURNED: i32 = 0;
const PARKED: i32 = 1;

/// The type of the event that carries a late answer.
const ANSWER_EVENT: i32 = 700;

/// Which lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// The recipe `fair-lock`.
    Recipe,
    /// The recipe of ZooKeeper's documentation, as kazoo and Curator have it.
    ClientSide,
}

impl LockKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LockKind::Recipe => "the recipe here",
            LockKind::ClientSide => "client-side on both",
        }
    }
}

/// Acquires and releases until the run is over. Counted are the acquisitions.
pub(crate) async fn drive(
    kind: LockKind,
    session: Session,
    number: usize,
    base: &str,
    tally: &Tally,
) -> Result<()> {
    match kind {
        LockKind::Recipe => by_recipe(session, number, base, tally).await,
        LockKind::ClientSide => client_side(session, number, base, tally).await,
    }
}

async fn by_recipe(mut session: Session, number: usize, base: &str, tally: &Tally) -> Result<()> {
    // A lock of this run's own.
    let arguments = format!("[\"{}\"]", &base[1..]);
    let mut key = 0;
    while !tally.stop.get() {
        call(&mut session, &mut key, "acquire", &arguments).await?;
        enter(number, tally)?;
        leave(number, tally)?;
        call(&mut session, &mut key, "release", &arguments).await?;
    }
    session.close().await
}

/// One call with the next key, which acknowledges the one before; waits for a late answer.
async fn call(
    session: &mut Session,
    key: &mut i64,
    operation: &str,
    arguments: &str,
) -> Result<()> {
    *key += 1;
    let (key, acknowledged) = (*key, *key - 1);
    let frame = session
        .ask(CALL, |s| {
            s.long(key);
            s.buffer(b"/locks");
            s.buffer(operation.as_bytes());
            s.buffer(arguments.as_bytes());
            s.long(0);
            s.long(acknowledged);
            s.int(0);
        })
        .await?;
    ensure!(frame.error == 0, "a call was answered with {}", frame.error);
    match int_at(frame.body, 0) {
        Some(RETURNED) => return Ok(()),
        Some(PARKED) => {}
        _ => bail!("{operation}: {:?}", String::from_utf8_lossy(frame.body)),
    }
    loop {
        let event = session.next().await?;
        ensure!(event.xid == XID_EVENT, "a response that nobody asked for");
        if int_at(event.body, 0) == Some(ANSWER_EVENT) {
            return late_answer(event.body, key);
        }
    }
}

/// The event's path, then key, status and result.
fn late_answer(body: &[u8], key: i64) -> Result<()> {
    let path = int_at(body, 8).context("an event without a path")?;
    let rest = body.get(12 + path as usize..).context("a cut event")?;
    let found = rest.get(..8).and_then(|bytes| bytes.try_into().ok());
    ensure!(
        found.map(i64::from_be_bytes) == Some(key),
        "the answer to another call"
    );
    match int_at(rest, 8) {
        Some(RETURNED) => Ok(()),
        _ => bail!("a late answer: {:?}", String::from_utf8_lossy(rest)),
    }
}

async fn client_side(mut session: Session, number: usize, base: &str, tally: &Tally) -> Result<()> {
    let prefix = format!("{base}/lock-");
    while !tally.stop.get() {
        let ticket = session.create(&prefix, b"", EPHEMERAL_SEQUENTIAL).await?;
        let name = ticket.rsplit_once('/').map_or("", |(_, name)| name);
        while let Some(ahead) = ahead_of(&mut session, base, name).await? {
            let ahead = format!("{base}/{ahead}");
            let frame = session
                .ask(EXISTS, |s| {
                    s.buffer(ahead.as_bytes());
                    s.bool(true);
                })
                .await?;
            match frame.error {
                0 => while session.next().await?.xid != XID_EVENT {},
                // It went meanwhile: look again. The watch that this has set on nothing never fires.
                NO_NODE => {}
                error => bail!("exists was answered with {error}"),
            }
        }
        enter(number, tally)?;
        leave(number, tally)?;
        let frame = session
            .ask(DELETE, |s| {
                s.buffer(ticket.as_bytes());
                s.int(-1);
            })
            .await?;
        ensure!(frame.error == 0, "delete was answered with {}", frame.error);
    }
    session.close().await
}

/// The child that stands before `name`; none if it is the first.
async fn ahead_of(session: &mut Session, base: &str, name: &str) -> Result<Option<String>> {
    let frame = session
        .ask(GET_CHILDREN, |s| {
            s.buffer(base.as_bytes());
            s.bool(false);
        })
        .await?;
    ensure!(
        frame.error == 0,
        "getChildren was answered with {}",
        frame.error
    );
    let (mut ahead, mut offset) = (None, 4);
    while let Some(length) = int_at(frame.body, offset) {
        let child = frame.body.get(offset + 4..offset + 4 + length as usize);
        let child = child.context("a cut list of children")?;
        // Only numbers differ, so the order of bytes is the order of the line.
        if child < name.as_bytes() && ahead.is_none_or(|ahead| ahead < child) {
            ahead = Some(child);
        }
        offset += 4 + length as usize;
    }
    Ok(ahead.map(|ahead| String::from_utf8_lossy(ahead).into_owned()))
}

/// A lock that two hold is no lock: the benchmark ends there.
fn enter(number: usize, tally: &Tally) -> Result<()> {
    let before = tally.holder.replace(Some(number));
    ensure!(
        before.is_none(),
        "{number} got the lock that {before:?} holds"
    );
    tally.add(1);
    Ok(())
}

fn leave(number: usize, tally: &Tally) -> Result<()> {
    let before = tally.holder.replace(None);
    ensure!(
        before == Some(number),
        "{number} held the lock, and so did {before:?}"
    );
    Ok(())
}
