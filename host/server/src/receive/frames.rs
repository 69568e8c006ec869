//! Frames to requests: what can be answered here is, the rest goes to the leader.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLockReadGuard;
use quorate_consensus::MembersChange;
use quorate_model::acl::Identity;
use quorate_model::call::{Acknowledgement, CallRequest};
use quorate_model::id::{SessionId, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::request::{CreateLifetime, CreatePath, Operation, Request, ZnodeOperation};
use quorate_model::znode::MAX_DATA_BYTES;
use quorate_tree::{SharedState, State};
use quorate_wire::{
    CallResponse, CallStatus, Create, CreateMode, ErrorCode, MultiOperation, RequestBody,
    RequestError, ResponseBody, opcode,
};

use super::room::{Share, Size};
use super::{CallPath, Edge, Standing, acl};
use crate::local_sessions::{self, Setting};
use crate::members::{self, Members};
use crate::respond::{Connection, Form, Kind, Read, SetWatches};
use crate::route::Barrier;

/// How many reads of one connection are answered before `apply` gets a turn.
const READS_PER_LOCK: u32 = 64;

/// Where a frame came from.
pub(super) struct Context<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) edge: &'a Edge,
    /// Grows by auth.
    pub(super) identities: &'a mut Arc<Vec<Identity>>,
}

/// What became of a frame.
pub(super) enum Taken {
    /// It is answered, or will be.
    Done,
    /// No such scheme, or no proof: ZooKeeper closes the connection.
    AuthFailed,
}

/// What is answered instead of a request that makes no sense.
enum Broken {
    /// An answer in its turn.
    Answer(Answer),
    /// An opcode that does not exist: the connection ends with the answer.
    Unknown,
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
    Reconfig(Members, MembersChange),
}

/// Takes a frame of a connection whose session is open, and its share of the room if it is large.
pub(super) fn take(
    frame: &Bytes,
    share: Option<Share>,
    context: Context<'_>,
    reads: &mut Reads<'_>,
) -> Result<Taken, RequestError> {
    let connection = context.connection;
    let request = match quorate_wire::Request::decode(frame) {
        Ok(request) => request,
        // ZooKeeper reads auth before anything else, and closes the connection where it cannot.
        Err(error @ RequestError::Body { opcode, .. }) if opcode == opcode::AUTH => {
            return Err(error);
        }
        Err(RequestError::Body { xid, .. }) => {
            connection.reply(xid, Err(ErrorCode::MarshallingError), frame.len());
            return Ok(Taken::Done);
        }
        Err(error) => return Err(error),
    };
    let xid = request.xid;
    let kind = connection.kind();
    let asked = match request.body {
        RequestBody::Ping => {
            // Whatever its own xid was, as in ZooKeeper.
            connection.reply_at_once(opcode::PING_XID, Ok(ResponseBody::Empty));
            return Ok(Taken::Done);
        }
        RequestBody::Auth { scheme, auth, .. } => {
            let identities = Arc::make_mut(context.identities);
            let proved = context.edge.limits.access.prove(identities, &scheme, &auth);
            // Before the answer: what is told behind it counts it.
            connection.prove(context.identities.clone());
            connection.reply_at_once(xid, proved.map(|()| ResponseBody::Empty));
            return Ok(match proved {
                Ok(()) => Taken::Done,
                Err(_) => Taken::AuthFailed,
            });
        }
        RequestBody::CloseSession if kind != Kind::Global => {
            if let Some(session) = connection.session() {
                context.edge.local.close(session, connection.number());
            }
            connection.last(xid, Ok(ResponseBody::Empty));
            return Ok(Taken::Done);
        }
        // Before anything of it is looked at, as in ZooKeeper.
        body if !only_reads(&body) && kind == Kind::ReadOnly => {
            connection.reply(xid, Err(ErrorCode::NotReadOnly), frame.len());
            return Ok(Taken::Done);
        }
        RequestBody::Reconfig(request) => reconfig(&request, context.edge),
        body => match by_path(&body, connection.session(), reads) {
            // It is for the leader to run, and who asks a read-only server is told so.
            Some(_) if kind == Kind::ReadOnly => Err(ErrorCode::NotReadOnly.into()),
            Some(call) => call,
            None => asked(body, context.identities),
        },
    };
    match asked {
        Ok(Asked::Read(read)) => {
            let newest =
                matches!(read, Read::Sync { .. }) || context.edge.limits.linearizable_reads;
            let barrier = match newest && kind != Kind::ReadOnly {
                true => context.edge.router.barriers().raise(connection),
                false => Barrier::NONE,
            };
            let size = Size::new(frame.len(), share);
            reads.with(|state| connection.read(state, xid, read, barrier, size));
        }
        Ok(Asked::Write(operation, form)) => {
            let Some(session) = connection.session() else {
                return Ok(Taken::Done);
            };
            reads.release();
            let edge = context.edge;
            if needs_upgrade(edge, kind, &operation) {
                upgrade(edge, connection, session);
            }
            let local = matches!(connection.kind(), Kind::Local { .. });
            let request = Request {
                session,
                owner: Some(connection.owner()).filter(|_| !local),
                identities: context.identities.clone(),
                operation,
            };
            let waiter = connection.write(xid, form, Size::new(frame.len(), share));
            connection.answer_due(&edge.state);
            let submit = || edge.router.submit_held(request, waiter);
            let submitted = match local {
                true => edge
                    .local
                    .send(session, connection.number(), submit)
                    .is_some(),
                false => {
                    submit();
                    true
                }
            };
            if !submitted {
                connection.close(MOVED);
            }
        }
        Ok(Asked::Reconfig(members, change)) => {
            let Some(session) = connection.session() else {
                return Ok(Taken::Done);
            };
            reads.release();
            let ask = Request {
                session,
                owner: Some(connection.owner()).filter(|_| kind == Kind::Global),
                identities: context.identities.clone(),
                operation: Operation::ReadConfiguration,
            };
            let size = Size::new(frame.len(), share);
            let waiter = connection.write(xid, Form::Reconfig { failed: None }, size);
            connection.answer_due(&context.edge.state);
            tokio::spawn(members.reconfigure(change, ask, connection.clone(), waiter));
        }
        Err(Broken::Answer(answer)) => connection.reply(xid, answer.into_reply(), frame.len()),
        Err(Broken::Unknown) => connection.last(xid, Err(ErrorCode::Unimplemented)),
    }
    Ok(Taken::Done)
}

/// Whether a frame is a ping, which waits for nothing (rule W5).
pub(super) fn is_ping(frame: &[u8]) -> bool {
    frame.get(4..8) == Some(&opcode::PING.to_be_bytes()[..])
}

/// Why a connection is closed whose session has another one.
pub(super) const MOVED: &str = "its session goes on over another one";

/// Whether the connection's session has to become a global one for that, and may.
fn needs_upgrade(edge: &Edge, kind: Kind, operation: &Operation) -> bool {
    matches!(kind, Kind::Local { .. })
        && edge.limits.local_sessions == Setting::Upgrading
        && local_sessions::needs_global(operation)
}

/// Has the connection's session made a global one, in front of the request that needs it.
fn upgrade(edge: &Edge, connection: &Arc<Connection>, session: SessionId) {
    let Kind::Local { timeout_ms } = connection.kind() else {
        return;
    };
    let submit = |password| {
        let request = Request {
            session,
            owner: Some(connection.owner()),
            identities: Arc::default(),
            operation: Operation::OpenSession {
                timeout_ms,
                password,
            },
        };
        edge.router.submit_held(request, connection.upgrade());
        Ok::<(), Infallible>(())
    };
    match edge.local.upgrade(session, connection.number(), submit) {
        Some(Ok(())) => connection.upgraded(),
        None => connection.close(MOVED),
    }
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

impl From<ErrorCode> for Broken {
    fn from(code: ErrorCode) -> Broken {
        Broken::Answer(Answer::Error(code))
    }
}

/// What a read-only server answers as any other does. A sync is not among it, as it asks for the newest.
fn only_reads(body: &RequestBody) -> bool {
    matches!(
        body,
        RequestBody::Exists { .. }
            | RequestBody::GetData { .. }
            | RequestBody::GetChildren { .. }
            | RequestBody::GetChildren2 { .. }
            | RequestBody::GetAcl { .. }
            | RequestBody::SetWatches(_)
            | RequestBody::SetWatches2 { .. }
            | RequestBody::Unknown { .. }
    )
}

fn asked(body: RequestBody, identities: &[Identity]) -> Result<Asked, Broken> {
    let plain = |operation| Asked::Write(Operation::Znode(operation), Form::Plain);
    let mut acls = acl::Expansion::new(identities);
    Ok(match body {
        // The one check of a read's path in ZooKeeper's `FinalRequestProcessor`.
        RequestBody::Exists { path, .. } if path.contains('\0') => {
            return Err(ErrorCode::BadArguments.into());
        }
        RequestBody::Exists { path, watch } => Asked::Read(Read::Exists {
            path: readable(&path)?,
            watch,
        }),
        RequestBody::GetData { path, watch } => Asked::Read(Read::Data {
            path: readable(&path)?,
            watch,
        }),
        RequestBody::GetChildren { path, watch } => Asked::Read(Read::Children {
            path: readable(&path)?,
            watch,
            with_stat: false,
        }),
        RequestBody::GetChildren2 { path, watch } => Asked::Read(Read::Children {
            path: readable(&path)?,
            watch,
            with_stat: true,
        }),
        RequestBody::GetAcl { path } => Asked::Read(Read::Acl {
            path: readable(&path)?,
        }),
        RequestBody::Sync { path } => Asked::Read(Read::Sync { path }),
        RequestBody::SetWatches(watches) => Asked::Read(set_watches(watches)),
        RequestBody::SetWatches2 {
            watches,
            persistent,
            recursive,
        } => {
            if !persistent.is_empty() || !recursive.is_empty() {
                return Err(ErrorCode::Unimplemented.into());
            }
            Asked::Read(set_watches(watches))
        }

        RequestBody::Create(request) => plain(create(request, false, &mut acls)?),
        RequestBody::Create2(request) | RequestBody::CreateContainer(request) => {
            plain(create(request, true, &mut acls)?)
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
            acl: acls.expand(acl)?,
            version,
        }),
        RequestBody::Multi(parts) => multi(parts, &mut acls),
        RequestBody::CloseSession => Asked::Write(Operation::CloseSession, Form::Close),

        RequestBody::Call(request) => call(request)?,
        RequestBody::CancelCall { key } => Asked::Write(Operation::Cancel { key }, Form::Cancel),
        RequestBody::Acknowledge(said) => {
            let said = Acknowledgement::try_from(said).map_err(|_| ErrorCode::BadArguments)?;
            Asked::Write(Operation::Acknowledge(said), Form::Plain)
        }

        RequestBody::Unknown { opcode } if opcode::NOT_SERVED.contains(&opcode) => {
            return Err(ErrorCode::Unimplemented.into());
        }
        RequestBody::Ping
        | RequestBody::Auth { .. }
        | RequestBody::Reconfig(_)
        | RequestBody::Unknown { .. } => {
            return Err(Broken::Unknown);
        }
    })
}

/// A call that is made by reading its path, and the end of one by deleting it (rule C8).
fn by_path(
    body: &RequestBody,
    session: Option<SessionId>,
    reads: &mut Reads<'_>,
) -> Option<Result<Asked, Broken>> {
    let (path, watch) = match body {
        RequestBody::GetData { path, watch } => (path, Some(*watch)),
        RequestBody::Delete { path, .. } => (path, None),
        _ => return None,
    };
    // Hardly any other path has one.
    if !path.contains('(') {
        return None;
    }
    let session = session?;
    let (found, standing) = reads.with(|state| {
        let found = CallPath::of(path, Some(session), state)?;
        let standing = found.standing(session, state);
        Some((found, standing))
    })?;
    let request = found.request();
    let operation = match (watch, found.key, standing) {
        (Some(_), Some(_), _) => Operation::Call(request),
        (Some(_), None, _) => Operation::Query(request),
        // Its answer has been read.
        (None, Some(key), Standing::Answered(_)) => {
            return Some(Ok(Asked::Write(
                Operation::AcknowledgeOne { key },
                Form::Plain,
            )));
        }
        (None, _, Standing::Parked(_)) => return Some(Err(ErrorCode::BadArguments.into())),
        (None, ..) => return Some(Err(ErrorCode::NoNode.into())),
    };
    let form = Form::Path {
        path: found.path,
        key: found.key,
        watch: watch.unwrap_or_default(),
    };
    Some(Ok(Asked::Write(operation, form)))
}

/// ZooKeeper's order: first whether it is allowed, then whether there is an ensemble.
fn reconfig(request: &quorate_wire::Reconfig, edge: &Edge) -> Result<Asked, Broken> {
    if !edge.limits.reconfig_enabled {
        return Err(ErrorCode::ReconfigDisabled.into());
    }
    let members = edge
        .members
        .as_ref()
        .filter(|members| members.is_ensemble());
    let members = members.ok_or(ErrorCode::Unimplemented)?;
    let change = members::reconfig_change(request).map_err(|why| {
        tracing::info!("a client's reconfiguration makes no sense: {why}");
        ErrorCode::BadArguments
    })?;
    Ok(Asked::Reconfig(members.clone(), change))
}

fn parse(path: &str) -> Result<ZnodePath, ErrorCode> {
    ZnodePath::parse(path).map_err(|_| ErrorCode::BadArguments)
}

/// The path of a read. ZooKeeper does not check it but looks: there is nothing at a malformed one, and
/// the root at an empty one.
fn readable(path: &str) -> Result<ZnodePath, ErrorCode> {
    if path.is_empty() {
        return Ok(ZnodePath::root());
    }
    ZnodePath::parse(path).map_err(|_| ErrorCode::NoNode)
}

/// A malformed path is no reason to lose the others: nothing will ever happen at it.
fn well_formed(paths: &[String]) -> Vec<ZnodePath> {
    let parsed = paths.iter().map(|path| ZnodePath::parse(path));
    parsed.filter_map(Result::ok).collect()
}

fn set_watches(watches: quorate_wire::request::SetWatches) -> Read {
    Read::SetWatches(Box::new(SetWatches {
        since: Zxid(u64::try_from(watches.since).unwrap_or(0)),
        data: well_formed(&watches.data),
        exist: well_formed(&watches.exist),
        child: well_formed(&watches.child),
    }))
}

fn create(
    request: Create,
    with_stat: bool,
    acls: &mut acl::Expansion<'_>,
) -> Result<ZnodeOperation, ErrorCode> {
    let mode = CreateMode::from_flags(request.flags).ok_or(ErrorCode::BadArguments)?;
    Ok(ZnodeOperation::Create {
        path: CreatePath::parse(&request.path, mode.is_sequential())
            .map_err(|_| ErrorCode::BadArguments)?,
        data: bounded(request.data)?,
        acl: acls.expand(request.acl)?,
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

/// A part that makes no sense is told its error only if those before it succeed, as in ZooKeeper. So
/// they are sent, and in its place a part that is sure to fail: the whole changes nothing either way.
fn multi(parts: Vec<MultiOperation>, acls: &mut acl::Expansion<'_>) -> Asked {
    let count = parts.len();
    let mut operations = Vec::with_capacity(count);
    let mut malformed = None;
    for (index, part) in parts.into_iter().enumerate() {
        match multi_part(part, acls) {
            Ok(operation) => operations.push(operation),
            Err(code) => {
                malformed = Some((index, code));
                operations.push(ZnodeOperation::Delete {
                    path: ZnodePath::root(),
                    version: -1,
                });
                break;
            }
        }
    }
    let form = Form::Multi {
        parts: count,
        malformed,
    };
    Asked::Write(Operation::Multi(operations), form)
}

fn multi_part(
    part: MultiOperation,
    acls: &mut acl::Expansion<'_>,
) -> Result<ZnodeOperation, ErrorCode> {
    Ok(match part {
        MultiOperation::Create(request) => create(request, false, acls)?,
        MultiOperation::Create2(request) | MultiOperation::CreateContainer(request) => {
            create(request, true, acls)?
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

fn call(request: quorate_wire::CallRequest) -> Result<Asked, Broken> {
    let bad_call = |result: String| {
        Broken::Answer(Answer::Body(ResponseBody::Call(CallResponse {
            status: CallStatus::BadCall,
            result,
        })))
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
        acknowledged: Acknowledgement::try_from(request.acknowledged)
            .map_err(|error| bad_call(error.to_string()))?,
    };
    Ok(Asked::Write(Operation::Call(request), form))
}

/// The same JSON in its shortest form, as HTTP has it: a call that is repeated with other white space is
/// the same call (rule C1). What is no JSON is refused by the sandbox, by name.
fn canonical(arguments: String) -> String {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&arguments);
    parsed.map_or(arguments, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::acl::Acl;

    #[test]
    fn bad_paths_of_writes_are_bad_arguments_before_they_are_anything_else() {
        for body in [
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
                Err(Broken::Answer(Answer::Error(ErrorCode::BadArguments)))
            );
            assert!(refused, "{shown}");
        }
    }

    #[test]
    fn there_is_nothing_at_a_malformed_path() {
        for path in ["a", "/a/", "//", "/a/../b"] {
            let watched = RequestBody::Exists {
                path: path.into(),
                watch: true,
            };
            let answer = asked(watched, &[]);
            let no_node = matches!(
                answer,
                Err(Broken::Answer(Answer::Error(ErrorCode::NoNode)))
            );
            assert!(no_node, "{path}");
        }
        let of_nothing = RequestBody::GetAcl { path: "".into() };
        let Ok(Asked::Read(Read::Acl { path })) = asked(of_nothing, &[]) else {
            panic!("it is read");
        };
        assert!(path.is_root());
    }

    #[test]
    fn a_bad_path_among_watches_does_not_lose_the_others() {
        let watches = quorate_wire::request::SetWatches {
            since: 1,
            data: vec!["bad".into(), "/good".into()],
            exist: vec!["//".into()],
            child: vec!["/a".into(), "/b".into()],
        };
        let Read::SetWatches(set) = set_watches(watches) else {
            panic!("it sets watches");
        };
        assert_eq!(set.data[0].as_str(), "/good");
        let lengths = (set.data.len(), set.exist.len(), set.child.len());
        assert_eq!(lengths, (1, 0, 2));
    }

    #[test]
    fn the_parts_before_a_bad_part_of_a_multi_are_evaluated() {
        let parts = ["/a", "b", "/c"].map(|path| MultiOperation::Check {
            path: path.into(),
            version: -1,
        });
        let asked = multi(parts.into(), &mut acl::Expansion::new(&[]));
        let Asked::Write(Operation::Multi(operations), form) = asked else {
            panic!("it is evaluated");
        };
        assert_eq!(operations.len(), 2);
        let malformed = Some((1, ErrorCode::BadArguments));
        assert_eq!(
            form,
            Form::Multi {
                parts: 3,
                malformed
            }
        );
    }
}
