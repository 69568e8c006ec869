//! The handle of a session: znodes, watches, calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::acl::Acl;
use quorate_model::id::SessionId;
use quorate_model::path::ZnodePath;
use quorate_model::request::CreatePath;
use quorate_wire::{
    CallRequest, CallResponse, CallStatus, Create, CreateMode, ErrorCode, MultiOperation,
    MultiResult, RequestBody, ResponseBody, Stat,
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::call::{self, Call, Keys};
use crate::connect::{Servers, Wish};
use crate::error::ClientError;
use crate::session::{Answer, Command, Failure, MAX_QUEUED_COMMANDS, Session, session_error};
use crate::watch::{Watch, Watcher};

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the servers keep the session without hearing of it; they bring it within their bounds. 10 s.
    pub session_timeout: Duration,
    /// How long one server may take to open the session. 5 s.
    pub connect_timeout: Duration,
    /// How long an answer may take, a call's apart, which may wait its turn. 10 s.
    pub request_timeout: Duration,
    /// The session to go on with; none opens one.
    pub resume: Option<Credentials>,
    /// Who the client is, for access control lists; proved anew on every connection.
    pub proofs: Vec<Proof>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            session_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            resume: None,
            proofs: Vec::new(),
        }
    }
}

/// What proves to a server who a client is: ZooKeeper's `addauth`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    /// How it is proved: `digest`.
    pub scheme: String,
    /// In that scheme's own form: `user:password` for `digest`. A secret.
    pub secret: Bytes,
}

impl Proof {
    /// A user with a password.
    pub fn digest(user: &str, password: &str) -> Proof {
        Proof {
            scheme: "digest".into(),
            secret: format!("{user}:{password}").into(),
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// What another process needs to go on with a session. The password is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The session.
    pub session: SessionId,
    /// Proves that one may.
    pub password: Bytes,
    /// The first key that no call has used yet.
    pub next_key: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("session", &self.session)
            .field("next_key", &self.next_key)
            .finish_non_exhaustive()
    }
}

/// How a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// There is a connection.
    Connected,
    /// There is none; the client reconnects. The session may end at any moment: who acts on a lock stops.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The session has ended, and with it its ephemeral znodes, locks and parked calls.
    Expired,
    /// The client was closed.
    Closed,
}

impl SessionState {
    /// What requests come to once the session is over.
    pub(crate) fn error(&self) -> Option<ClientError> {
        match self {
            SessionState::Connected | SessionState::Disconnected { .. } => None,
            SessionState::Expired => Some(ClientError::SessionExpired),
            SessionState::Closed => Some(ClientError::Closed),
        }
    }
}

/// A session. Clones share it; requests of all of them go out in the order in which they are made,
/// without waiting for each other. When the last one is dropped, the session is ended.
///
/// If the connection goes, the client reconnects with the same session while it lives. Requests on their way
/// end with [`ClientError::ConnectionLost`]; calls, which are executed once, are repeated; watches stay.
#[derive(Clone)]
pub struct Client {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) keys: Arc<Mutex<Keys>>,
    state: watch::Receiver<SessionState>,
    session: SessionId,
    password: Bytes,
    session_timeout: Duration,
    request_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens a session at one of `servers` (`host:port,host:port`), or goes on with one.
    ///
    /// # Errors
    /// [`ClientError::NoServer`] and [`ClientError::NoSession`] if none of them has it;
    /// [`ClientError::SessionExpired`] if the one to go on with has ended, or the password is wrong;
    /// [`ClientError::ProofRefused`] if the server does not take one of [`Options::proofs`].
    pub async fn connect(servers: &str, options: Options) -> Result<Client, ClientError> {
        let mut servers = Servers::parse(servers)?;
        let timeout_ms = i32::try_from(options.session_timeout.as_millis()).unwrap_or(i32::MAX);
        let (session, password, next_key) = match options.resume {
            Some(resume) => (resume.session.0, resume.password, resume.next_key.max(1)),
            None => (0, Bytes::from_static(&[0; 16]), 1),
        };
        let wish = Wish {
            last_zxid_seen: 0,
            timeout_ms,
            session: session.cast_signed(),
            password,
            proofs: options.proofs,
        };
        let connection = servers.connect(&wish, options.connect_timeout).await?;
        let (commands, queue) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let (announce, state) = watch::channel(SessionState::Connected);
        let keys = Arc::new(Mutex::new(Keys::from(next_key)));
        let client = Client {
            commands,
            keys: keys.clone(),
            state,
            session: SessionId(connection.session.cast_unsigned()),
            password: connection.password.clone(),
            session_timeout: connection.timeout,
            request_timeout: options.request_timeout,
        };
        let patience = options.connect_timeout;
        let proofs = wish.proofs;
        let session = Session::new(servers, patience, timeout_ms, proofs, queue, announce, keys);
        tokio::spawn(session.run(connection));
        Ok(client)
    }

    /// The session's id.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The session's timeout, as the server granted it.
    pub fn session_timeout(&self) -> Duration {
        self.session_timeout
    }

    /// What another process needs to go on with this session: see [`Options::resume`].
    pub fn credentials(&self) -> Credentials {
        Credentials {
            session: self.session,
            password: self.password.clone(),
            next_key: self.keys.lock().next(),
        }
    }

    /// How the session is, and a wait for its changes.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }

    /// Creates a znode that everyone may read and write; gives its path, with its number if sequential.
    ///
    /// # Errors
    /// NodeExists, [`ClientError::NoParent`], NoChildrenForEphemerals.
    pub async fn create(
        &self,
        path: &str,
        data: impl Into<Bytes>,
        mode: CreateMode,
    ) -> Result<String, ClientError> {
        self.create_with_acl(path, data, mode, Acl::open()).await
    }

    /// Creates a znode with an access control list.
    ///
    /// # Errors
    /// As [`Client::create`], and InvalidAcl.
    pub async fn create_with_acl(
        &self,
        path: &str,
        data: impl Into<Bytes>,
        mode: CreateMode,
        acl: Acl,
    ) -> Result<String, ClientError> {
        CreatePath::parse(path, mode.is_sequential())?;
        let create = Create {
            path: path.to_owned(),
            data: data.into(),
            acl,
            flags: mode.flags(),
        };
        let body = match mode {
            CreateMode::Container => RequestBody::CreateContainer(create),
            _ => RequestBody::Create(create),
        };
        match self.ask(path, body, None).await {
            Ok(ResponseBody::Path(path) | ResponseBody::Created { path, .. }) => Ok(path),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.is_no_node() => Err(ClientError::NoParent {
                path: path.to_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Creates the parents of `path` that are missing, as persistent znodes without data.
    ///
    /// # Errors
    /// As [`Client::create`], without NodeExists.
    pub async fn create_parents(&self, path: &str) -> Result<(), ClientError> {
        let path = ZnodePath::parse(path)?;
        let mut parents: Vec<ZnodePath> = path.upwards().skip(1).collect();
        // The root is always there.
        parents.pop();
        for parent in parents.iter().rev() {
            let created = self
                .create(parent.as_str(), Bytes::new(), CreateMode::Persistent)
                .await;
            match created {
                Err(error) if !error.is_node_exists() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes a znode without children, of that version if one is given.
    ///
    /// # Errors
    /// NoNode, BadVersion, NotEmpty.
    pub async fn delete(&self, path: &str, version: Option<i32>) -> Result<(), ClientError> {
        let body = RequestBody::Delete {
            path: checked(path)?,
            version: version.unwrap_or(ANY_VERSION),
        };
        self.ask(path, body, None).await.map(|_| ())
    }

    /// A znode's stat; none if there is no such znode.
    ///
    /// # Errors
    /// Of the connection and the session only.
    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, ClientError> {
        self.read_stat(path, None).await
    }

    /// The same, with a watch for its creation, deletion or change.
    ///
    /// # Errors
    /// As [`Client::exists`].
    pub async fn exists_and_watch(&self, path: &str) -> Result<(Option<Stat>, Watch), ClientError> {
        let (watcher, watch) = oneshot::channel();
        let stat = self.read_stat(path, Some(watcher)).await?;
        Ok((stat, Watch(watch)))
    }

    /// A znode's data and stat.
    ///
    /// # Errors
    /// NoNode.
    pub async fn get(&self, path: &str) -> Result<(Bytes, Stat), ClientError> {
        self.read_data(path, None).await
    }

    /// The same, with a watch for its deletion or change. There is none if it is not there.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_and_watch(&self, path: &str) -> Result<(Bytes, Stat, Watch), ClientError> {
        let (watcher, watch) = oneshot::channel();
        let (data, stat) = self.read_data(path, Some(watcher)).await?;
        Ok((data, stat, Watch(watch)))
    }

    /// Replaces a znode's data, at that version if one is given; gives the stat afterwards.
    ///
    /// # Errors
    /// NoNode, BadVersion.
    pub async fn set(
        &self,
        path: &str,
        data: impl Into<Bytes>,
        version: Option<i32>,
    ) -> Result<Stat, ClientError> {
        let body = RequestBody::SetData {
            path: checked(path)?,
            data: data.into(),
            version: version.unwrap_or(ANY_VERSION),
        };
        match self.ask(path, body, None).await? {
            ResponseBody::Stat(stat) => Ok(stat),
            other => Err(unexpected(&other)),
        }
    }

    /// The names of a znode's children, in no order that may be relied on, and its stat.
    ///
    /// # Errors
    /// NoNode.
    pub async fn children(&self, path: &str) -> Result<(Vec<String>, Stat), ClientError> {
        self.read_children(path, None).await
    }

    /// The same, with a watch for a child created or deleted.
    ///
    /// # Errors
    /// As [`Client::children`].
    pub async fn children_and_watch(
        &self,
        path: &str,
    ) -> Result<(Vec<String>, Stat, Watch), ClientError> {
        let (watcher, watch) = oneshot::channel();
        let (children, stat) = self.read_children(path, Some(watcher)).await?;
        Ok((children, stat, Watch(watch)))
    }

    /// A znode's access control list and stat.
    ///
    /// # Errors
    /// NoNode.
    pub async fn get_acl(&self, path: &str) -> Result<(Acl, Stat), ClientError> {
        let body = RequestBody::GetAcl {
            path: checked(path)?,
        };
        match self.ask(path, body, None).await? {
            ResponseBody::Acl { acl, stat } => Ok((acl, stat)),
            other => Err(unexpected(&other)),
        }
    }

    /// Replaces a znode's access control list, at that ACL version if one is given; gives the stat afterwards.
    ///
    /// # Errors
    /// NoNode, BadVersion, InvalidAcl.
    pub async fn set_acl(
        &self,
        path: &str,
        acl: Acl,
        version: Option<i32>,
    ) -> Result<Stat, ClientError> {
        let body = RequestBody::SetAcl {
            path: checked(path)?,
            acl,
            version: version.unwrap_or(ANY_VERSION),
        };
        match self.ask(path, body, None).await? {
            ResponseBody::Stat(stat) => Ok(stat),
            other => Err(unexpected(&other)),
        }
    }

    /// Does all of it or nothing.
    ///
    /// # Errors
    /// [`ClientError::Multi`] names the part that failed; [`ClientError::Denied`] says why a guard has refused it.
    pub async fn multi(
        &self,
        operations: Vec<MultiOperation>,
    ) -> Result<Vec<MultiResult>, ClientError> {
        let paths: Vec<String> = operations
            .iter()
            .map(|operation| path_of(operation).to_owned())
            .collect();
        let body = RequestBody::Multi(operations);
        let results = match self.ask("the multi", body, None).await? {
            ResponseBody::Multi(results) => results,
            other => return Err(unexpected(&other)),
        };
        // Every part of a failed multi is an error: 0 before the one that failed, its own number there.
        let failed = results
            .iter()
            .enumerate()
            .find_map(|(index, result)| match result {
                MultiResult::Error(number) if *number != 0 => Some((index, *number)),
                _ => None,
            });
        match failed {
            None => Ok(results),
            Some((index, number)) => Err(ErrorCode::from_number(number).map_or_else(
                || session_error(number),
                |code| ClientError::Multi {
                    index,
                    path: paths.get(index).cloned().unwrap_or_default(),
                    code,
                },
            )),
        }
    }

    /// Answered once this server has seen everything that was committed before.
    ///
    /// # Errors
    /// Of the connection and the session only.
    pub async fn sync(&self, path: &str) -> Result<(), ClientError> {
        let body = RequestBody::Sync {
            path: checked(path)?,
        };
        self.ask(path, body, None).await.map(|_| ())
    }

    /// Calls an operation of the recipe mounted at `mount`. `arguments` is a JSON array in order, or an
    /// object by name; the result is JSON. Waits as long as the call is parked: see [`Call::timeout`].
    ///
    /// The call is executed once, however often the connection breaks, while the session lives.
    ///
    /// # Errors
    /// [`ClientError::Call`] says how it ended without a result; [`ClientError::NoCalls`] at ZooKeeper.
    pub fn call(
        &self,
        mount: impl Into<String>,
        operation: impl Into<String>,
        arguments: impl Into<Value>,
    ) -> Call<'_> {
        Call::new(self, mount.into(), operation.into(), arguments.into())
    }

    /// Ends a call that is parked. None says that it was; a call that has its result already gives it.
    ///
    /// # Errors
    /// As [`Client::call`]; a key that the session does not know is [`CallError::BadCall`](crate::CallError::BadCall).
    pub async fn cancel(&self, key: u64) -> Result<Option<Value>, ClientError> {
        let response = self
            .exchange(|reply| Command::Cancel {
                key,
                reply: Some(reply),
            })
            .await?;
        match response.status {
            CallStatus::Cancelled => Ok(None),
            _ => call::interpret(response).map(Some),
        }
    }

    /// The answers of the calls with keys of one's own up to `key` are not needed any more. Answers to
    /// other calls are acknowledged by themselves.
    ///
    /// # Errors
    /// Of the connection and the session only.
    pub async fn acknowledge(&self, key: u64) -> Result<(), ClientError> {
        let said = {
            let mut keys = self.keys.lock();
            keys.release(key);
            keys.acknowledgement()
        };
        if said.mark == 0 {
            return Ok(());
        }
        let body = RequestBody::Acknowledge(said);
        match self.request(body, None).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(session_error(failure.number)),
        }
    }

    /// Ends the session: its ephemeral znodes go, its parked calls end.
    ///
    /// # Errors
    /// If that cannot be known; then its timeout ends it.
    pub async fn close(self) -> Result<(), ClientError> {
        self.exchange(|reply| Command::Close { reply }).await
    }

    /// Lets the connection go without a word, as a crash would: the session goes on until its timeout,
    /// or until somebody resumes it.
    pub async fn abandon(self) {
        // If nobody takes it, the session is over anyway.
        let _ = self.commands.send(Command::Abandon).await;
        let mut state = self.state;
        let ended = state.wait_for(|state| state.error().is_some());
        // The task has the command within a moment; a deadline all the same.
        let _ = timeout(self.request_timeout, ended).await;
    }

    /// Sends a call and waits for its answer, which may be as long as it is parked.
    pub(crate) async fn send_call(
        &self,
        request: CallRequest,
        automatic: bool,
    ) -> Result<CallResponse, ClientError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Call {
            request,
            automatic,
            reply,
        };
        if self.commands.send(command).await.is_err() {
            return Err(self.ended());
        }
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    async fn read_stat(
        &self,
        path: &str,
        watcher: Option<Watcher>,
    ) -> Result<Option<Stat>, ClientError> {
        let body = RequestBody::Exists {
            path: checked(path)?,
            watch: watcher.is_some(),
        };
        match self.ask(path, body, watcher).await {
            Ok(ResponseBody::Stat(stat)) => Ok(Some(stat)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.is_no_node() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_data(
        &self,
        path: &str,
        watcher: Option<Watcher>,
    ) -> Result<(Bytes, Stat), ClientError> {
        let body = RequestBody::GetData {
            path: checked(path)?,
            watch: watcher.is_some(),
        };
        match self.ask(path, body, watcher).await? {
            ResponseBody::Data { data, stat } => Ok((data, stat)),
            other => Err(unexpected(&other)),
        }
    }

    async fn read_children(
        &self,
        path: &str,
        watcher: Option<Watcher>,
    ) -> Result<(Vec<String>, Stat), ClientError> {
        let body = RequestBody::GetChildren2 {
            path: checked(path)?,
            watch: watcher.is_some(),
        };
        match self.ask(path, body, watcher).await? {
            ResponseBody::ChildrenWithStat { children, stat } => Ok((children, stat)),
            other => Err(unexpected(&other)),
        }
    }

    /// A request about `path`, whose refusals are about it.
    async fn ask(
        &self,
        path: &str,
        body: RequestBody,
        watcher: Option<Watcher>,
    ) -> Result<ResponseBody, ClientError> {
        match self.request(body, watcher).await? {
            Ok(body) => Ok(body),
            Err(Failure { number, reason }) => Err(match ErrorCode::from_number(number) {
                Some(
                    ErrorCode::SessionExpired | ErrorCode::SessionMoved | ErrorCode::ConnectionLoss,
                )
                | None => session_error(number),
                Some(code) => match reason {
                    Some(reason) => ClientError::Denied { code, reason },
                    None => ClientError::Znode {
                        path: path.to_owned(),
                        code,
                    },
                },
            }),
        }
    }

    async fn request(
        &self,
        body: RequestBody,
        watcher: Option<Watcher>,
    ) -> Result<Answer, ClientError> {
        self.exchange(|reply| Command::Request {
            body,
            watcher,
            reply,
        })
        .await
    }

    /// Hands a command to the session's task and waits for its answer, both within the deadline.
    async fn exchange<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ClientError>>) -> Command,
    ) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            if self.commands.send(command(reply)).await.is_err() {
                return Err(self.ended());
            }
            answer.await.unwrap_or_else(|_| Err(self.ended()))
        };
        match timeout(self.request_timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::NoAnswer(self.request_timeout)),
        }
    }

    fn ended(&self) -> ClientError {
        self.state.borrow().error().unwrap_or(ClientError::Closed)
    }
}

/// On the wire, for whichever version there is.
const ANY_VERSION: i32 = -1;

/// A path that a server would take, so that a wrong one is told with what is wrong.
fn checked(path: &str) -> Result<String, ClientError> {
    ZnodePath::parse(path)?;
    Ok(path.to_owned())
}

fn path_of(operation: &MultiOperation) -> &str {
    match operation {
        MultiOperation::Create(create)
        | MultiOperation::Create2(create)
        | MultiOperation::CreateContainer(create) => &create.path,
        MultiOperation::Delete { path, .. }
        | MultiOperation::SetData { path, .. }
        | MultiOperation::Check { path, .. } => path,
    }
}

fn unexpected(body: &ResponseBody) -> ClientError {
    ClientError::Protocol(format!(
        "it answered something else than was asked: {body:?}"
    ))
}
