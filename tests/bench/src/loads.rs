//! The plain loads: get, set and create of 128 bytes.

use std::fmt;

use anyhow::{Result, bail};

use crate::measure::Tally;
use crate::session::{CREATE, GET_DATA, SET_DATA, Session};

const DATA: [u8; 128] = [b'x'; 128];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Set,
    Create,
}

/// How many sessions do what, and how many requests each has under way.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) sessions: usize,
    pub(crate) in_flight: usize,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Get => "get",
            Operation::Set => "set",
            Operation::Create => "create",
        };
        let plural = if self.sessions == 1 { "" } else { "s" };
        write!(f, "{operation}, {} session{plural}", self.sessions)?;
        if self.in_flight > 1 {
            write!(f, ", {} in flight", self.in_flight)?;
        }
        Ok(())
    }
}

/// Each session has a znode of its own, to get and set or to create below.
pub(crate) async fn prepare(load: Load, sessions: &mut [Session], base: &str) -> Result<()> {
    let data: &[u8] = match load.operation {
        Operation::Create => b"",
        Operation::Get | Operation::Set => &DATA,
    };
    for (number, session) in sessions.iter_mut().enumerate() {
        session.create(&path(base, number), data, 0).await?;
    }
    Ok(())
}

fn path(base: &str, number: usize) -> String {
    format!("{base}/{number}")
}

/// Keeps `in_flight` requests of one session under way until the run is over.
pub(crate) async fn drive(
    load: Load,
    mut session: Session,
    number: usize,
    base: &str,
    tally: &Tally,
) -> Result<()> {
    let mut requests = Requests {
        operation: load.operation,
        path: path(base, number),
        created: 0,
    };
    for _ in 0..load.in_flight {
        requests.queue(&mut session);
    }
    session.flush().await?;
    let mut under_way = load.in_flight;
    while under_way > 0 {
        // All that has come is taken at once, and as many requests go out in one write.
        let mut answered = 0;
        loop {
            let frame = session.next().await?;
            if frame.error != 0 {
                bail!("answered with the error {}", frame.error);
            }
            answered += 1;
            if !session.has_next() {
                break;
            }
        }
        tally.add(answered as u64);
        under_way -= answered;
        if !tally.stop.get() {
            for _ in 0..answered {
                requests.queue(&mut session);
            }
            session.flush().await?;
            under_way += answered;
        }
    }
    session.close().await
}

struct Requests {
    operation: Operation,
    path: String,
    created: u64,
}

impl Requests {
    fn queue(&mut self, session: &mut Session) {
        match self.operation {
            Operation::Get => session.request(GET_DATA, |s| {
                s.buffer(self.path.as_bytes());
                s.bool(false);
            }),
            Operation::Set => session.request(SET_DATA, |s| {
                s.buffer(self.path.as_bytes());
                s.buffer(&DATA);
                s.int(-1);
            }),
            Operation::Create => {
                self.created += 1;
                let path = format!("{}/{}", self.path, self.created);
                session.request(CREATE, |s| s.create_body(&path, &DATA, 0))
            }
        };
    }
}
