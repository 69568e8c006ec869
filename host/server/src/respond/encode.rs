//! Outcomes and replies as ZooKeeper's clients read them.

use bytes::BytesMut;
use quorate_model::id::Zxid;
use quorate_model::outcome::{Outcome, Refusal, ZnodeOutcome};
use quorate_wire::{CallResponse, ErrorCode, MultiResult, Response, ResponseBody, Stat};

use super::{Form, Reply};

/// Appends the answer to a write.
pub(super) fn outcome(form: &Form, xid: i32, zxid: Zxid, outcome: &Outcome, out: &mut BytesMut) {
    // A number does not say what a guard wants of its clients.
    if let Outcome::Refused(
        refusal @ (Refusal::GuardRefused { .. } | Refusal::GuardFailed { .. }),
    ) = outcome
    {
        let code = ErrorCode::of(refusal);
        Response::refusal(xid, zxid, code, refusal.to_string()).encode_frame(out);
        return;
    }
    reply(xid, zxid, body(form, outcome), out);
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
        | Outcome::Resumed
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
