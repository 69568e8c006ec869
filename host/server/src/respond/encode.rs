//! Outcomes and replies as ZooKeeper's clients read them.

use bytes::{Bytes, BytesMut};
use quorate_model::call::Ending;
use quorate_model::id::{Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal, ZnodeOutcome};
use quorate_model::znode as model;
use quorate_wire::{CallResponse, ErrorCode, MultiResult, Response, ResponseBody, Stat};

use super::{Form, Reply};

/// Appends the answer to a write.
pub(super) fn outcome(form: &Form, xid: i32, zxid: Zxid, outcome: &Outcome, out: &mut BytesMut) {
    // A number does not say what a guard wants of its clients, nor which permission is missing.
    if let Outcome::Refused(
        refusal @ (Refusal::GuardRefused { .. } | Refusal::GuardFailed { .. } | Refusal::NoAuth(_)),
    ) = outcome
    {
        let code = ErrorCode::of(refusal);
        Response::refusal(xid, zxid, code, refusal.to_string()).encode_frame(out);
        return;
    }
    if let Form::Path { .. } = form {
        called(xid, zxid, outcome).encode_frame(out);
        return;
    }
    reply(xid, zxid, body(form, outcome), out);
}

/// The data of a path that stands for a call which is parked.
const PARKED: &[u8] = b"parked";

/// The answer to the read of a path that stands for a call (rule C8): the result as JSON, as a znode's data. Whatever
/// else came of it is an error, which no client takes for data; why it is follows the header, for clients that look.
fn called(xid: i32, zxid: Zxid, outcome: &Outcome) -> Response {
    let data = |data: Bytes, changed: Zxid| {
        let stat = Stat::from(&model::Stat {
            created: changed,
            modified: changed,
            children_modified: changed,
            created_at: Timestamp(0),
            modified_at: Timestamp(0),
            version: 0,
            children_version: 0,
            acl_version: 0,
            lifetime: model::Lifetime::Persistent,
            data_length: u32::try_from(data.len()).unwrap_or(u32::MAX),
            children: 0,
        });
        Response::ok(xid, zxid, ResponseBody::Data { data, stat })
    };
    let failed = |code, why: String| {
        tracing::debug!(target: "recipe", "a call by reading its path has failed: {why}");
        Response::refusal(xid, zxid, code, why)
    };
    match outcome {
        Outcome::Parked => data(Bytes::from_static(PARKED), zxid),
        Outcome::Answered(answer) => match &answer.ending {
            Ending::Returned(result) => data(result.clone().into(), answer.zxid),
            ending => failed(ErrorCode::ApiError, ending.to_string()),
        },
        Outcome::Refused(refusal) => failed(ErrorCode::of(refusal), refusal.to_string()),
        other => failed(ErrorCode::SystemError, format!("{other:?}")),
    }
}

/// Appends an answer.
pub(super) fn reply(xid: i32, zxid: Zxid, reply: Reply, out: &mut BytesMut) {
    match reply {
        Ok(body) => Response::ok(xid, zxid, body),
        Err(code) => Response::error(xid, zxid, code),
    }
    .encode_frame(out);
}

fn body(form: &Form, outcome: &Outcome) -> Reply {
    Ok(match outcome {
        Outcome::Znode(done) => znode(done),
        Outcome::Multi(parts) => ResponseBody::Multi(parts.iter().map(part).collect()),
        Outcome::Answered(answer) => ResponseBody::Call(CallResponse::from(&answer.ending)),
        Outcome::Parked => ResponseBody::Call(CallResponse::parked()),
        Outcome::Acknowledged | Outcome::SessionClosed => ResponseBody::Empty,
        Outcome::Refused(refusal) => refused(form, refusal)?,
        Outcome::Configuration if let Form::Reconfig { failed: Some(code) } = form => {
            return Err(*code);
        }
        // Answered with a read, or of requests that no connection makes.
        Outcome::Configuration
        | Outcome::Session { .. }
        | Outcome::Pushed(_)
        | Outcome::Removed
        | Outcome::Mounted { .. }
        | Outcome::MountSet
        | Outcome::Tried(_)
        | Outcome::Resumed { .. }
        | Outcome::Followed { .. }
        | Outcome::Unmounting { .. }
        | Outcome::Unmounted { .. }
        | Outcome::Uploaded { .. }
        | Outcome::VersionRaised => return Err(ErrorCode::SystemError),
    })
}

fn refused(form: &Form, refusal: &Refusal) -> Reply {
    match (form, refusal) {
        (Form::Multi { parts, malformed }, Refusal::Multi { index, refusal }) => {
            let index = *index as usize;
            let code = match malformed {
                Some((part, code)) if *part == index => *code,
                _ => ErrorCode::of(refusal),
            };
            Ok(ResponseBody::Multi(MultiResult::failed(
                *parts, index, code,
            )))
        }
        (Form::Call { .. } | Form::Cancel, refusal) => {
            CallResponse::refused(refusal).map(ResponseBody::Call)
        }
        (_, refusal) => Err(ErrorCode::of(refusal)),
    }
}

fn znode(done: &ZnodeOutcome) -> ResponseBody {
    match done {
        ZnodeOutcome::Created { path, stat: None } => ResponseBody::Path(path.as_str().to_owned()),
        ZnodeOutcome::Created {
            path,
            stat: Some(stat),
        } => ResponseBody::Created {
            path: path.as_str().to_owned(),
            stat: Stat::from(stat),
        },
        ZnodeOutcome::Set(stat) | ZnodeOutcome::AclSet(stat) => {
            ResponseBody::Stat(Stat::from(stat))
        }
        ZnodeOutcome::Deleted | ZnodeOutcome::Checked => ResponseBody::Empty,
    }
}

fn part(done: &ZnodeOutcome) -> MultiResult {
    match done {
        ZnodeOutcome::Created { path, stat: None } => MultiResult::Create {
            path: path.as_str().to_owned(),
        },
        ZnodeOutcome::Created {
            path,
            stat: Some(stat),
        } => MultiResult::Create2 {
            path: path.as_str().to_owned(),
            stat: Stat::from(stat),
        },
        ZnodeOutcome::Deleted => MultiResult::Delete,
        // setACL is no part of a multi in ZooKeeper's protocol; its answer would look like setData's.
        ZnodeOutcome::Set(stat) | ZnodeOutcome::AclSet(stat) => {
            MultiResult::SetData(Stat::from(stat))
        }
        ZnodeOutcome::Checked => MultiResult::Check,
    }
}
