//! Calls to recipes on a ZooKeeper connection: opcodes 700 to 702, which are ours.

use quorate_model::call::{self, BadAcknowledgement, Ending};
use quorate_model::outcome::Refusal;

use crate::error::ErrorCode;
use crate::jute::{DecodeError, Reader, Record, Writer};

/// Run an operation of a recipe. Sent again with the same key, it is executed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest {
    /// Chosen by the client, unique in its session, at least 1.
    pub key: u64,
    /// The path of the mount.
    pub mount: String,
    /// `operation`, or `interface.operation` where two interfaces export the same name.
    pub operation: String,
    /// A JSON array of the arguments in order, or an object of them by name.
    pub arguments: String,
    /// When to give up, counted from the first run; 0 for never.
    pub timeout_ms: u64,
    /// Which answers the client has seen.
    pub acknowledged: Acknowledgement,
}

/// What a client says of its calls' answers, as it came: [`call::Acknowledgement`] is one that is in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledgement {
    /// It is done with every key up to this one; 0 for none.
    pub mark: u64,
    /// But for these.
    pub awaited: Vec<u64>,
}

impl TryFrom<Acknowledgement> for call::Acknowledgement {
    type Error = BadAcknowledgement;

    fn try_from(said: Acknowledgement) -> Result<call::Acknowledgement, BadAcknowledgement> {
        call::Acknowledgement::new(said.mark, said.awaited)
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallStatus {
    /// The operation returned; the result as JSON.
    Returned,
    /// It waits; the answer follows as a notification. No result.
    Parked,
    /// The operation returned `err`; that error as JSON.
    Failed,
    /// The recipe refused; the reason.
    Refused,
    /// It trapped; the message.
    Trapped,
    /// It exceeded a bound; "bound: message".
    Exceeded,
    /// The client cancelled it.
    Cancelled,
    /// Its timeout came first.
    TimedOut,
    /// The recipe was unmounted.
    Unmounted,
    /// Nothing ran, and repeating it will not help; the message.
    BadCall,
    /// Nothing ran; repeat it with the same key.
    NotReady,
}

impl CallStatus {
    /// All of them, in the order of their numbers.
    pub const ALL: [CallStatus; 11] = [
        CallStatus::Returned,
        CallStatus::Parked,
        CallStatus::Failed,
        CallStatus::Refused,
        CallStatus::Trapped,
        CallStatus::Exceeded,
        CallStatus::Cancelled,
        CallStatus::TimedOut,
        CallStatus::Unmounted,
        CallStatus::BadCall,
        CallStatus::NotReady,
    ];

    /// Its number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// What the number stands for.
    pub fn from_number(number: i32) -> Option<CallStatus> {
        CallStatus::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// The answer to a call, at once or late, and to its cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallResponse {
    /// What became of it.
    pub status: CallStatus,
    /// See [`CallStatus`]; empty where it says nothing.
    pub result: String,
}

impl CallResponse {
    /// The call is parked.
    pub fn parked() -> CallResponse {
        CallResponse {
            status: CallStatus::Parked,
            result: String::new(),
        }
    }

    /// A refusal that is about the call. One that is about the session goes into the reply's header, as its code.
    pub fn refused(refusal: &Refusal) -> Result<CallResponse, ErrorCode> {
        let status = match refusal {
            Refusal::NotReady(_) => CallStatus::NotReady,
            Refusal::SessionExpired | Refusal::SessionMoved | Refusal::Defect(_) => {
                return Err(ErrorCode::of(refusal));
            }
            _ => CallStatus::BadCall,
        };
        Ok(CallResponse {
            status,
            result: refusal.to_string(),
        })
    }
}

impl From<&Ending> for CallResponse {
    fn from(ending: &Ending) -> CallResponse {
        let (status, result) = match ending {
            Ending::Returned(result) => (CallStatus::Returned, result.clone()),
            Ending::Failed(error) => (CallStatus::Failed, error.clone()),
            Ending::Refused(reason) => (CallStatus::Refused, reason.clone()),
            Ending::Trapped(message) => (CallStatus::Trapped, message.clone()),
            Ending::Exceeded { bound, message } => {
                (CallStatus::Exceeded, format!("{bound}: {message}"))
            }
            Ending::Cancelled => (CallStatus::Cancelled, String::new()),
            Ending::TimedOut => (CallStatus::TimedOut, String::new()),
            Ending::Unmounted => (CallStatus::Unmounted, String::new()),
            // To its caller the recipe that it called is not there any more; the text says more.
            ending @ Ending::Outdated(_) => (CallStatus::Unmounted, ending.to_string()),
        };
        CallResponse { status, result }
    }
}

impl Record for CallRequest {
    fn encode(&self, out: &mut Writer<'_>) {
        out.long(self.key.cast_signed());
        out.string(&self.mount);
        out.string(&self.operation);
        out.string(&self.arguments);
        out.long(self.timeout_ms.cast_signed());
        self.acknowledged.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<CallRequest, DecodeError> {
        Ok(CallRequest {
            key: input.unsigned_long()?,
            mount: input.string()?,
            operation: input.string()?,
            arguments: input.string()?,
            timeout_ms: input.unsigned_long()?,
            acknowledged: Acknowledgement::decode(input)?,
        })
    }
}

impl Record for Acknowledgement {
    fn encode(&self, out: &mut Writer<'_>) {
        out.long(self.mark.cast_signed());
        out.vector(&self.awaited, |out, key| out.long(key.cast_signed()));
    }

    fn decode(input: &mut Reader<'_>) -> Result<Acknowledgement, DecodeError> {
        Ok(Acknowledgement {
            mark: input.unsigned_long()?,
            awaited: input.vector(8, Reader::unsigned_long)?,
        })
    }
}

impl Record for CallResponse {
    fn encode(&self, out: &mut Writer<'_>) {
        out.int(self.status.number());
        out.string(&self.result);
    }

    fn decode(input: &mut Reader<'_>) -> Result<CallResponse, DecodeError> {
        let number = input.int()?;
        let status = CallStatus::from_number(number).ok_or(DecodeError::Unknown {
            what: "status of a call",
            number,
        })?;
        Ok(CallResponse {
            status,
            result: input.string()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::path::ZnodePath;

    #[test]
    fn statuses_have_the_numbers_of_the_protocol() {
        let numbers: Vec<_> = CallStatus::ALL.map(CallStatus::number).into();
        assert_eq!(numbers, (0..11).collect::<Vec<_>>());
        for status in CallStatus::ALL {
            assert_eq!(CallStatus::from_number(status.number()), Some(status));
        }
        assert_eq!(CallStatus::from_number(-1), None);
        assert_eq!(CallStatus::from_number(11), None);
    }

    #[test]
    fn what_is_about_the_session_goes_into_the_header() {
        assert_eq!(
            CallResponse::refused(&Refusal::SessionMoved),
            Err(ErrorCode::SessionMoved)
        );
        let not_ready = CallResponse::refused(&Refusal::NotReady(ZnodePath::root())).unwrap();
        assert_eq!(not_ready.status, CallStatus::NotReady);
        let unknown = CallResponse::refused(&Refusal::NoCall { key: 7 }).unwrap();
        assert_eq!(unknown.status, CallStatus::BadCall);
        assert!(unknown.result.contains('7'), "{}", unknown.result);
    }
}
