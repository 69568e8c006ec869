//! openraft's way to its peers: which lane a message takes, and for how long its answer is waited for.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::acquaintances::Acquaintances;
use super::dial::Dialer;
use super::hello::{Hello, Purpose};
use super::lane::{CallError, Lane};
use super::message::{Request, Response};
use super::transfer;
use super::transport::Transport;
use crate::disk::Disk;
use crate::raft::{Member, TermId, Types, Vote};
use crate::snapshot::SnapshotFile;

/// Requests with entries that one follower is sent before it answers. They are bounded in bytes by
/// their lane, and each by what is read from the log at a time.
const APPENDS_IN_FLIGHT: usize = 32;

/// A lane of entries on which nothing is answered for this long is dialed anew. Long enough for a disk that is slow to sync.
const LOG_STALL: Duration = Duration::from_secs(3);

/// The same for votes and heartbeats, of which each has a shorter time of its own.
const CONTROL_STALL: Duration = Duration::from_secs(1);

/// openraft asks a peer that could not be reached again after this time.
const RETRY: Duration = Duration::from_millis(100);

/// The lanes to all peers, each made when it is first asked for.
pub(crate) struct Peers {
    server: u64,
    acquaintances: Arc<Acquaintances>,
    transport: Arc<dyn Transport>,
    disk: Arc<dyn Disk>,
    lanes: Mutex<BTreeMap<(u64, Purpose), Known>>,
}

/// A lane, and the address that it leads to.
struct Known {
    address: String,
    lane: Arc<Lane>,
}

impl Peers {
    pub(crate) fn new(
        server: u64,
        acquaintances: Arc<Acquaintances>,
        transport: Arc<dyn Transport>,
        disk: Arc<dyn Disk>,
    ) -> Arc<Peers> {
        Arc::new(Peers {
            server,
            acquaintances,
            transport,
            disk,
            lanes: Mutex::default(),
        })
    }

    /// How to dial a peer.
    pub(crate) fn dialer(&self, to: u64, address: &str, purpose: Purpose) -> Dialer {
        Dialer {
            transport: self.transport.clone(),
            address: address.to_owned(),
            hello: Hello {
                from: self.server,
                to,
                directory: self.acquaintances.directory,
                purpose,
            },
            acquaintances: self.acquaintances.clone(),
        }
    }

    /// The lane to a peer, which has moved if its address is another than before.
    fn lane(&self, to: u64, address: &str, purpose: Purpose) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        if let Some(known) = lanes.get(&(to, purpose))
            && known.address == address
        {
            return known.lane.clone();
        }
        let stall = match purpose {
            Purpose::Log => LOG_STALL,
            _ => CONTROL_STALL,
        };
        let lane = Arc::new(Lane::new(self.dialer(to, address, purpose), stall));
        let known = Known {
            address: address.to_owned(),
            lane: lane.clone(),
        };
        lanes.insert((to, purpose), known);
        lane
    }

    /// Lets go of the lanes to peers that are no members any more.
    pub(crate) fn retain(&self, member: impl Fn(u64) -> bool) {
        self.lanes.lock().retain(|(to, _), _| member(*to));
    }

    pub(crate) fn client(&self, to: u64, member: &Member, appends: Purpose) -> Peer {
        Peer {
            from: self.server,
            to,
            appends: self.lane(to, &member.address, appends),
            control: self.lane(to, &member.address, Purpose::Control),
            dialer: self.dialer(to, &member.address, Purpose::Control),
            disk: self.disk.clone(),
        }
    }
}

/// What openraft makes its clients with.
pub(crate) struct Network(pub(crate) Arc<Peers>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        self.0.client(target, member, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Peer {
        self.0.client(target, member, Purpose::Control)
    }
}

/// The way to one peer.
pub(crate) struct Peer {
    from: u64,
    to: u64,
    appends: Arc<Lane>,
    control: Arc<Lane>,
    dialer: Dialer,
    disk: Arc<dyn Disk>,
}

impl Peer {
    /// Asks over the control lane.
    async fn ask(
        &self,
        kind: RPCTypes,
        request: Request,
        patience: Duration,
    ) -> Result<Response, RPCError<Types>> {
        match timeout(patience, call(&self.control, &request)).await {
            Ok(answered) => answered,
            Err(_) => Err(RPCError::Timeout(Timeout {
                action: kind,
                id: self.from,
                target: self.to,
                timeout: patience,
            })),
        }
    }

    /// Asks whether the peer would vote for this server, which changes nothing there; the answer also says how far its log goes.
    pub(crate) async fn probe(
        &self,
        vote: VoteRequest<Types>,
        patience: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self
            .ask(RPCTypes::Vote, Request::PreVote(vote), patience)
            .await?
        {
            Response::Vote(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }
}

async fn call(lane: &Lane, request: &Request) -> Result<Response, RPCError<Types>> {
    let request = request.encode().map_err(|error| network(&error))?;
    let answer = lane.enqueue(request).await.map_err(call_error)?;
    let answer = answer.wait().await.map_err(call_error)?;
    Response::decode(&answer).map_err(|error| network(&error))
}

fn call_error(error: CallError) -> RPCError<Types> {
    match error {
        CallError::Unreachable(reason) => Unreachable::from_string(reason).into(),
        CallError::Lost => network(&error),
    }
}

fn network(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    NetworkError::new(error).into()
}

fn unexpected() -> RPCError<Types> {
    NetworkError::from_string("the answer is to another request").into()
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let request = Request::Append(request);
        match self
            .ask(RPCTypes::AppendEntries, request, option.soft_ttl())
            .await?
        {
            Response::Append(result) => Ok(result.into()),
            _ => Err(unexpected()),
        }
    }

    /// Pipelined: each request is queued when openraft gives it, and the answers come in the same order.
    /// How long one may take is the lane's affair, as openraft's own time (a heartbeat's) is less than a sync of
    /// a busy disk. The stream ends with the input, as a heartbeat's must, or behind the first error.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let lane = &self.appends;
        let answers = input
            .then(move |request| async move {
                let request = Request::Append(request).encode();
                let request = request.map_err(|error| network(&error))?;
                lane.enqueue(request).await.map_err(call_error)
            })
            .map(|queued| async move {
                let answer = queued?.wait().await.map_err(call_error)?;
                match Response::decode(&answer).map_err(|error| network(&error))? {
                    Response::Append(result) => Ok(result),
                    _ => Err(unexpected()),
                }
            })
            .buffered(APPENDS_IN_FLIGHT)
            .scan(false, |ended, answer| {
                if *ended {
                    return ready(None);
                }
                *ended = !matches!(answer, Ok(Ok(_)));
                ready(Some(answer))
            });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self
            .ask(RPCTypes::Vote, Request::Vote(request), option.soft_ttl())
            .await?
        {
            Response::Vote(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.probe(request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = Request::Transfer(request);
        match self
            .ask(RPCTypes::TransferLeader, request, option.soft_ttl())
            .await?
        {
            Response::Transfer(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TermId, u64, Member, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let dialer = self.dialer.about(Purpose::Snapshot);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = transfer::send(&dialer, self.disk.as_ref(), vote, &snapshot.snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse { vote }),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY)))
    }
}
