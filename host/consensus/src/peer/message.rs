//! What peers ask each other, as bytes: openraft's own messages in postcard's form, checked where they come in.
//!
//! Their form may change with openraft; the hello's protocol version then goes up.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::lane::{LAST, MORE};
use crate::raft::{LogId, MembershipRecord, Types, Vote};

/// No ensemble gets to a term or an index beyond this, and openraft adds to them without looking.
const MAX_NUMBER: u64 = 1 << 62;

/// What one peer asks of another. On a lane of entries only `Append` is.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
}

/// The answer to a request of the same name.
#[derive(Serialize, Deserialize)]
pub(crate) enum Response {
    Append(StreamAppendResult<Types>),
    Vote(VoteResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
#[error("a peer's message cannot be understood: {0}")]
pub(crate) struct Malformed(pub(crate) String);

impl From<postcard::Error> for Malformed {
    fn from(error: postcard::Error) -> Malformed {
        Malformed(error.to_string())
    }
}

impl Request {
    pub(crate) fn encode(&self) -> Result<Bytes, Malformed> {
        Ok(postcard::to_stdvec(self)?.into())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let request = whole(bytes)?;
        let wrong = match &request {
            Request::Append(append) => wrong_append(append),
            Request::Vote(vote) | Request::PreVote(vote) => {
                wrong_vote(&vote.vote).or_else(|| wrong_id(vote.last_log_id.as_ref()))
            }
            Request::Transfer(transfer) => {
                wrong_vote(transfer.from_leader()).or_else(|| wrong_id(transfer.last_log_id()))
            }
        };
        match wrong {
            Some(wrong) => Err(Malformed(wrong.into())),
            None => Ok(request),
        }
    }
}

impl Response {
    /// The answer as a frame; `last` when the connection ends behind it.
    pub(crate) fn encode(&self, last: bool) -> Result<Vec<u8>, Malformed> {
        let frame = vec![if last { LAST } else { MORE }];
        Ok(postcard::to_extend(self, frame)?)
    }

    /// Reads the answer behind the frame's first byte.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Response, Malformed> {
        let response = whole(bytes)?;
        let wrong = match &response {
            Response::Append(Ok(id)) => wrong_id(id.as_ref()),
            Response::Vote(vote) => {
                wrong_vote(&vote.vote).or_else(|| wrong_id(vote.last_log_id.as_ref()))
            }
            Response::Append(Err(_)) | Response::Transfer(_) => None,
        };
        match wrong {
            Some(wrong) => Err(Malformed(wrong.into())),
            None => Ok(response),
        }
    }
}

/// Decodes bytes of which nothing may be left over.
pub(crate) fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let (value, rest) = postcard::take_from_bytes(bytes)?;
    match rest {
        [] => Ok(value),
        _ => Err(Malformed("something stands behind its end".into())),
    }
}

/// What openraft takes for granted about entries that a leader sends.
fn wrong_append(append: &AppendEntriesRequest<Types>) -> Option<&'static str> {
    let ids = [append.prev_log_id.as_ref(), append.leader_commit.as_ref()];
    if let Some(wrong) = ids.into_iter().find_map(wrong_id) {
        return Some(wrong);
    }
    if !append.vote.committed {
        return Some("entries come from a server that was not elected");
    }
    let mut before = append.prev_log_id;
    for entry in &append.entries {
        let id = entry.log_id;
        let index = before.map_or(0, |before| before.index + 1);
        if id.index != index || before.is_some_and(|before| before.leader_id > id.leader_id) {
            return Some("entries do not follow each other");
        }
        if let EntryPayload::Membership(membership) = &entry.payload
            && MembershipRecord::from(membership).membership().is_err()
        {
            return Some("a membership contradicts itself");
        }
        before = Some(id);
    }
    wrong_id(before.as_ref()).or_else(|| wrong_vote(&append.vote))
}

pub(crate) fn wrong_vote(vote: &Vote) -> Option<&'static str> {
    (vote.leader_id.term > MAX_NUMBER).then_some("a term is out of range")
}

fn wrong_id(id: Option<&LogId>) -> Option<&'static str> {
    let beyond = |id: &LogId| id.index > MAX_NUMBER || id.leader_id.term > MAX_NUMBER;
    id.is_some_and(beyond).then_some("a log id is out of range")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{LogEntry, log_id};

    fn append(indexes: &[u64]) -> Request {
        let entry = |index: &u64| LogEntry {
            log_id: log_id(1, *index),
            payload: EntryPayload::Blank,
        };
        Request::Append(AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, 4)),
            entries: indexes.iter().map(entry).collect(),
            leader_commit: None,
        })
    }

    #[test]
    fn entries_must_follow_each_other() {
        let read = |indexes: &[u64]| Request::decode(&append(indexes).encode().expect("encoded"));
        assert!(read(&[5, 6, 7]).is_ok());
        assert!(read(&[]).is_ok());
        assert!(read(&[6, 7]).is_err());
        assert!(read(&[5, 5]).is_err());
        assert!(read(&[5, u64::MAX]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = Response::decode(&bytes);
        }

        #[test]
        fn damaged_messages_are_a_message_or_an_error(at in 0..100_usize, flip in 1..=255_u8) {
            let mut bytes = append(&[5, 6, 7, 8]).encode().expect("encoded").to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let _ = Request::decode(&bytes);
            let _ = Request::decode(&bytes[..at]);
        }
    }
}
