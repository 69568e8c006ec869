//! Frames to requests: what can be answered here is, the rest goes to the leader.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use parking_lot::RwLockReadGuard;
use quorate_model::acl::Identity;
use quorate_model::call::CallRequest;
use quorate_model::id::Zxid;
use quorate_model::path::ZnodePath;
use quorate_model::request::{CreateLifetime, CreatePath, Operation, Request, ZnodeOperation};
use quorate_model::znode::MAX_DATA_BYTES;
use quorate_tree::{SharedState, State};
use quorate_wire::{
    CallResponse, CallStatus, Create, CreateMode, ErrorCode, MultiOperation, MultiResult,
    RequestBody, RequestError, ResponseBody,
};
use sha1::{Digest as _, Sha1};

use super::{Edge, acl};
use crate::respond::{Connection, Form, Read, SetWatches};

/// How many reads of one connection are answered before `apply` gets a turn.
const READS_PER_LOCK: u32 = 64;

/// The most identities that one connection may add by auth: each goes along with each of its writes.
const MAX_IDENTITIES: usize = 32;

/// Where a frame came from.
pub(super) struct Context<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) edge: &'a Edge,
    /// Grows by auth.
    pub(super) identities: &'a mut Vec<Identity>,
}

/// What became of a frame.
pub(super) enum Taken {
    /// It is answered, or will be.
    Done,
    /// The leader has too much to do.
    Overloaded,
    /// No such scheme, or no proof: ZooKeeper closes the connection.
    AuthFailed,
}

/// The state, locked for a run of reads. No request is submitted while it is.
pub(super) struct Reads<'a> {
    shared: &'a SharedState,
    locked: Option<RwLockReadGuard<'a, State>>,
    left: u32,
}

impl<'a> Reads<'a> {
    pub(super) fn new(shared: &'a SharedState) -> Reads<'a> {
        Reads {
            shared,
            locked: None,
            left: READS_PER_LOCK,
        }
    }

    fn with<T>(&mut self, read: impl FnOnce(&State) -> T) -> T {
        let value = read(self.locked.get_or_insert_with(|| self.shared.read()));
        self.left -= 1;
        if self.left == 0 {
            self.release();
        }
        value
    }

    fn release(&mut self) {
        self.locked = None;
        self.left = READS_PER_LOCK;
    }
}

/// What a frame asks for.
enum Asked {
    Read(Read),
    Write(Operation, Form),
}

/// Takes a frame of a connection whose session is open.
pub(super) fn take(
    frame: &Bytes,
    context: Context<'_>,
    reads: &mut Reads<'_>,
) -> Result<Taken, RequestError> {
    let connection = context.connection;
    let request = match quorate_wire::Request::decode(frame) {
        Ok(request) => request,
        Err(RequestError::Body { xid, .. }) => {
            connection.reply(xid, Err(ErrorCode::MarshallingError));
            return Ok(Taken::Done);
        }
        Err(error) => return Err(error),
    };
    let xid = request.xid;
    let asked = match request.body {
        RequestBody::Ping => {
            connection.reply_at_once(xid, Ok(ResponseBody::Empty));
            return Ok(Taken::Done);
        }
        RequestBody::Auth { scheme, auth, .. } => {
            let proved = add_identity(context.identities, &scheme, &auth);
            connection.reply_at_once(xid, proved.map(|()| ResponseBody::Empty));
            return Ok(match proved {
                Ok(()) => Taken::Done,
                Err(_) => Taken::AuthFailed,
            });
        }
        body => asked(body, context.identities),
    };
    match asked {
        Ok(Asked::Read(read)) => reads.with(|state| connection.read(state, xid, read)),
        Ok(Asked::Write(operation, form)) => {
            let Some(session) = connection.session() else {
                return Ok(Taken::Done);
            };
            reads.release();
            let request = Request {
                session,
                owner: Some(connection.owner()),
                identities: context.identities.clone(),
                operation,
            };
            let waiter = connection.write(xid, form, frame.len());
            if context.edge.router.submit(request, waiter).is_err() {
                return Ok(Taken::Overloaded);
            }
        }
        Err(answer) => connection.reply(xid, answer.into_reply()),
    }
    Ok(Taken::Done)
}

/// What needs no state and no leader to be answered.
enum Answer {
    Error(ErrorCode),
    Body(ResponseBody),
}

impl Answer {
    fn into_reply(self) -> Result<ResponseBody, ErrorCode> {
        match self {
            Answer::Error(code) => Err(code),
            Answer::Body(body) => Ok(body),
        }
    }
}

impl From<ErrorCode> for Answer {
    fn from(code: ErrorCode) -> Answer {
        Answer::Error(code)
    }
}

fn asked(body: RequestBody, identities: &[Identity]) -> Result<Asked, Answer> {
    let plain = |operation| Asked::Write(Operation::Znode(operation), Form::Plain);
    Ok(match body {
        RequestBody::Exists { path, watch } => Asked::Read(Read::Exists {
            path: parse(&path)?,
            watch,
        }),
        RequestBody::GetData { path, watch } => Asked::Read(Read::Data {
            path: parse(&path)?,
            watch,
        }),
        RequestBody::GetChildren { path, watch } => Asked::Read(Read::Children {
            path: parse(&path)?,
            watch,
            with_stat: false,
        }),
        RequestBody::GetChildren2 { path, watch } => Asked::Read(Read::Children {
            path: parse(&path)?,
            watch,
            with_stat: true,
        }),
        RequestBody::GetAcl { path } => Asked::Read(Read::Acl {
            path: parse(&path)?,
        }),
        RequestBody::SetWatches(watches) => Asked::Read(set_watches(watches)?),
        RequestBody::SetWatches2 {
            watches,
            persistent,
            recursive,
        } => {
            if !persistent.is_empty() || !recursive.is_empty() {
                return Err(ErrorCode::Unimplemented.into());
            }
            Asked::Read(set_watches(watches)?)
        }

        RequestBody::Create(request) => plain(create(request, false, identities)?),
        RequestBody::Create2(request) | RequestBody::CreateContainer(request) => {
            plain(create(request, true, identities)?)
        }
        RequestBody::Delete { path, version } => plain(ZnodeOperation::Delete {
            path: parse(&path)?,
            version,
        }),
        RequestBody::SetData {
            path,
            data,
            version,
        } => plain(set_data(&path, data, version)?),
        RequestBody::SetAcl { path, acl, version } => plain(ZnodeOperation::SetAcl {
            path: parse(&path)?,
            acl: acl::expand(acl, identities)?,
            version,
        }),
        RequestBody::Multi(parts) => multi(parts, identities)?,
        RequestBody::Sync { path } => Asked::Write(Operation::Sync(parse(&path)?), Form::Plain),
        RequestBody::CloseSession => Asked::Write(Operation::CloseSession, Form::Close),

        RequestBody::Call(request) => call(request)?,
        RequestBody::CancelCall { key } => Asked::Write(Operation::Cancel { key }, Form::Cancel),
        RequestBody::Acknowledge { key } => {
            Asked::Write(Operation::Acknowledge { key }, Form::Plain)
        }

        RequestBody::Ping | RequestBody::Auth { .. } | RequestBody::Unknown { .. } => {
            return Err(ErrorCode::Unimplemented.into());
        }
    })
}

fn parse(path: &str) -> Result<ZnodePath, ErrorCode> {
    ZnodePath::parse(path).map_err(|_| ErrorCode::BadArguments)
}

fn parse_all(paths: &[String]) -> Result<Vec<ZnodePath>, ErrorCode> {
    paths.iter().map(|path| parse(path)).collect()
}

fn set_watches(watches: quorate_wire::request::SetWatches) -> Result<Read, ErrorCode> {
    Ok(Read::SetWatches(Box::new(SetWatches {
        since: Zxid(u64::try_from(watches.since).unwrap_or(0)),
        data: parse_all(&watches.data)?,
        exist: parse_all(&watches.exist)?,
        child: parse_all(&watches.child)?,
    })))
}

fn create(
    request: Create,
    with_stat: bool,
    identities: &[Identity],
) -> Result<ZnodeOperation, ErrorCode> {
    let mode = CreateMode::from_flags(request.flags).ok_or(ErrorCode::BadArguments)?;
    Ok(ZnodeOperation::Create {
        path: CreatePath::parse(&request.path, mode.is_sequential())
            .map_err(|_| ErrorCode::BadArguments)?,
        data: bounded(request.data)?,
        acl: acl::expand(request.acl, identities)?,
        lifetime: match mode {
            CreateMode::Persistent | CreateMode::PersistentSequential => CreateLifetime::Persistent,
            CreateMode::Ephemeral | CreateMode::EphemeralSequential => CreateLifetime::Ephemeral,
            CreateMode::Container => CreateLifetime::Container,
        },
        with_stat,
    })
}

fn set_data(path: &str, data: Bytes, version: i32) -> Result<ZnodeOperation, ErrorCode> {
    Ok(ZnodeOperation::Set {
        path: parse(path)?,
        data: bounded(data)?,
        version,
    })
}

fn bounded(data: Bytes) -> Result<Bytes, ErrorCode> {
    if data.len() > MAX_DATA_BYTES {
        return Err(ErrorCode::BadArguments);
    }
    Ok(data)
}

fn multi(parts: Vec<MultiOperation>, identities: &[Identity]) -> Result<Asked, Answer> {
    let count = parts.len();
    let mut operations = Vec::with_capacity(count);
    for (index, part) in parts.into_iter().enumerate() {
        match multi_part(part, identities) {
            Ok(operation) => operations.push(operation),
            Err(code) => {
                let results = MultiResult::failed(count, index, code);
                return Err(Answer::Body(ResponseBody::Multi(results)));
            }
        }
    }
    Ok(Asked::Write(
        Operation::Multi(operations),
        Form::Multi { parts: count },
    ))
}

fn multi_part(part: MultiOperation, identities: &[Identity]) -> Result<ZnodeOperation, ErrorCode> {
    Ok(match part {
        MultiOperation::Create(request) => create(request, false, identities)?,
        MultiOperation::Create2(request) | MultiOperation::CreateContainer(request) => {
            create(request, true, identities)?
        }
        MultiOperation::Delete { path, version } => ZnodeOperation::Delete {
            path: parse(&path)?,
            version,
        },
        MultiOperation::SetData {
            path,
            data,
            version,
        } => set_data(&path, data, version)?,
        MultiOperation::Check { path, version } => ZnodeOperation::Check {
            path: parse(&path)?,
            version,
        },
    })
}

fn call(request: quorate_wire::CallRequest) -> Result<Asked, Answer> {
    let bad_call = |result: String| {
        Answer::Body(ResponseBody::Call(CallResponse {
            status: CallStatus::BadCall,
            result,
        }))
    };
    if request.key == 0 {
        return Err(bad_call("a call's key is at least 1".into()));
    }
    let mount = ZnodePath::parse(&request.mount).map_err(|error| bad_call(error.to_string()))?;
    let form = Form::Call {
        key: request.key,
        mount: mount.clone(),
    };
    let request = CallRequest {
        key: request.key,
        mount,
        operation: request.operation,
        arguments: canonical(request.arguments),
        timeout_ms: Some(request.timeout_ms).filter(|&timeout_ms| timeout_ms > 0),
        acknowledged: request.acknowledged,
    };
    Ok(Asked::Write(Operation::Call(request), form))
}

/// The same JSON in its shortest form, as HTTP has it: a call that is repeated with other white space is
/// the same call (rule C1). What is no JSON is refused by the sandbox, by name.
fn canonical(arguments: String) -> String {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&arguments);
    parsed.map_or(arguments, |value| value.to_string())
}

/// What auth proves. `ip` and `world` prove nothing that the connection does not have already.
fn add_identity(
    identities: &mut Vec<Identity>,
    scheme: &str,
    auth: &[u8],
) -> Result<(), ErrorCode> {
    match scheme {
        "ip" | "world" => Ok(()),
        "digest" => {
            let identity = digest_identity(auth);
            if identities.contains(&identity) {
                return Ok(());
            }
            if identities.len() > MAX_IDENTITIES {
                return Err(ErrorCode::AuthFailed);
            }
            identities.push(identity);
            Ok(())
        }
        _ => Err(ErrorCode::AuthFailed),
    }
}

/// As ZooKeeper's `DigestAuthenticationProvider` makes it of `user:password`: `user:` and the
/// SHA-1 of the whole in base64.
fn digest_identity(auth: &[u8]) -> Identity {
    let text = String::from_utf8_lossy(auth);
    let user = text.split(':').next().unwrap_or_default();
    let digest = BASE64_STANDARD.encode(Sha1::digest(text.as_bytes()));
    Identity {
        scheme: "digest".into(),
        id: format!("{user}:{digest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::acl::Acl;

    #[test]
    fn digest_is_zookeepers() {
        // The example of ZooKeeper's own documentation and tests: super:test.
        assert_eq!(
            digest_identity(b"super:test").id,
            "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
        );
    }

    #[test]
    fn auth_adds_an_identity_once_and_within_a_bound() {
        let mut identities = vec![];
        for _ in 0..3 {
            assert_eq!(add_identity(&mut identities, "digest", b"a:b"), Ok(()));
        }
        assert_eq!(identities.len(), 1);
        assert_eq!(add_identity(&mut identities, "ip", b""), Ok(()));
        assert_eq!(
            add_identity(&mut identities, "kerberos", b""),
            Err(ErrorCode::AuthFailed)
        );
        let more = (0..100).filter(|n: &u32| {
            add_identity(&mut identities, "digest", n.to_string().as_bytes()).is_ok()
        });
        assert_eq!(more.count(), MAX_IDENTITIES);
    }

    #[test]
    fn bad_paths_are_bad_arguments_before_they_are_anything_else() {
        for body in [
            RequestBody::Exists {
                path: "a".into(),
                watch: true,
            },
            RequestBody::Sync { path: "/a/".into() },
            RequestBody::Delete {
                path: "//".into(),
                version: -1,
            },
            RequestBody::Create(Create {
                path: "/a/../b".into(),
                data: Bytes::new(),
                acl: Acl::open(),
                flags: 0,
            }),
            RequestBody::Create(Create {
                path: "/a".into(),
                data: Bytes::new(),
                acl: Acl::open(),
                flags: 9,
            }),
        ] {
            let shown = format!("{body:?}");
            let refused = matches!(
                asked(body, &[]),
                Err(Answer::Error(ErrorCode::BadArguments))
            );
            assert!(refused, "{shown}");
        }
    }

    #[test]
    fn a_bad_part_of_a_multi_tells_each_part_its_share() {
        let parts = ["/a", "b", "/c"].map(|path| MultiOperation::Check {
            path: path.into(),
            version: -1,
        });
        let Err(Answer::Body(ResponseBody::Multi(results))) = multi(parts.into(), &[]) else {
            panic!("it is answered here");
        };
        assert_eq!(results, [0, -8, -2].map(MultiResult::Error));
    }
}
