//! HTTP and JSON: calls and administration for whoever has no ZooKeeper client.

mod activity;
pub(crate) mod body;
mod calls;
mod cluster;
mod extract;
mod listener;
mod mounts;
mod parked;
mod problem;
mod recipes;
mod sending;
mod sessions;
mod status;
mod token;
mod tree;
mod trials;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use parking_lot::RwLockReadGuard;
use quorate_consensus::Consensus;
use quorate_model::acl::Identity;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::outcome::Outcome;
use quorate_model::request::Operation;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub(crate) use body::UPLOAD_BYTES_PER_SECOND;
pub use listener::serve;
pub(crate) use recipes::MAX_UPLOADS;
pub use recipes::{CheckedRecipe, Description, ParkedKind, RecipeCheck};

use crate::read_only::NO_QUORUM_AFTER_MS;
use crate::receive::Edge;
use crate::route::Unavailable;
use crate::silence::limit_ms;
use problem::Problem;

/// The header that tells as of which transaction an answer is (rule W3).
const ZXID_HEADER: HeaderName = HeaderName::from_static("quorate-zxid");

/// How long a read waits that demands `at_least` a zxid.
const AT_LEAST_DEADLINE: Duration = Duration::from_secs(10);

/// How long a read that is to be linearizable waits for a leader.
const NEWEST_DEADLINE: Duration = Duration::from_secs(10);

/// How long after the last word of a quorum this server still shows its state to whoever names no session (rule W4), in
/// milliseconds: then `/health` says so too. It is less than the silence of any session with one of the default timeouts.
const NO_SESSION_MS: u64 = NO_QUORUM_AFTER_MS;

/// How long after the last word of a quorum whoever writes without a session still waits for a leader, in milliseconds:
/// longer than leaders take to change.
const NO_SESSION_WRITE_MS: u64 = 10_000;

/// What the handlers share.
pub struct Http {
    edge: Arc<Edge>,
    check: Arc<dyn RecipeCheck>,
    /// None in a test that has no ensemble.
    consensus: Option<Consensus>,
    health: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// One permit per byte of the large answers that wait to be sent.
    answers: Arc<Semaphore>,
    /// One permit per upload that is being checked.
    uploads: Arc<Semaphore>,
    /// One permit per component that is being described.
    descriptions: Arc<Semaphore>,
    /// Answers to mounts that wait for a recipe to be compiled.
    compilations: Semaphore,
    /// One permit per unmount or upgrade that goes in steps.
    steps: Arc<Semaphore>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

impl Http {
    /// `check` looks at uploads; `health` says why this server does not take writes, if so.
    pub fn new(
        edge: Arc<Edge>,
        check: Arc<dyn RecipeCheck>,
        consensus: Option<Consensus>,
        health: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Arc<Http> {
        Arc::new(Http {
            edge,
            check,
            consensus,
            health: Box::new(health),
            answers: Arc::new(Semaphore::new(sending::MAX_ANSWER_BYTES)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            descriptions: Arc::new(Semaphore::new(recipes::MAX_DESCRIPTIONS)),
            compilations: Semaphore::new(recipes::MAX_COMPILATIONS),
            steps: Arc::new(Semaphore::new(mounts::MAX_IN_STEPS)),
        })
    }

    /// The whole interface.
    fn routes(self: &Arc<Http>) -> Router {
        Router::new()
            .route("/v1/sessions", post(sessions::open))
            .route(
                "/v1/sessions/{token}",
                axum::routing::delete(sessions::close),
            )
            .route(
                "/v1/sessions/{token}/keep-alive",
                post(sessions::keep_alive),
            )
            .route("/v1/sessions/{token}/acknowledge", post(calls::acknowledge))
            .route(
                "/v1/sessions/{token}/calls/{key}",
                put(calls::call).delete(calls::cancel),
            )
            .route("/v1/calls", get(parked::list))
            .route(
                "/v1/calls/{session}/{key}",
                axum::routing::delete(parked::cancel),
            )
            .route("/v1/calls/{session}/{key}/trial", post(trials::parked))
            .route("/v1/trials", post(trials::call))
            .route("/v1/recordings", get(trials::failures))
            .route("/v1/recordings/{zxid}", get(trials::recording))
            .route("/v1/activity", get(activity::operations))
            .route("/v1/activity/lines", get(activity::lines))
            .route("/v1/recipes", get(recipes::list))
            .route(
                "/v1/recipes/{name}",
                get(recipes::show)
                    .post(recipes::name)
                    .put(recipes::push)
                    .delete(recipes::remove),
            )
            .route(
                "/v1/recipes/{name}/{digest}",
                axum::routing::delete(recipes::remove_version),
            )
            .route("/v1/components/{digest}", get(recipes::component))
            .route("/v1/mounts", get(mounts::list))
            .route(
                "/v1/mounts/{*path}",
                get(mounts::show)
                    .put(mounts::mount)
                    .patch(mounts::set)
                    .delete(mounts::unmount),
            )
            .route("/v1/resume/{*path}", post(mounts::resume))
            .route("/v1/tree", get(tree::root))
            .route("/v1/tree/", get(tree::root))
            .route("/v1/tree/{*path}", get(tree::znode))
            .route("/v1/cluster", get(cluster::show))
            .route("/v1/cluster/members", post(cluster::add))
            .route(
                "/v1/cluster/members/{id}",
                axum::routing::delete(cluster::remove),
            )
            .route("/v1/cluster/members/{id}/promote", post(cluster::promote))
            .route("/v1/cluster/members/{id}/replace", post(cluster::replace))
            .route("/v1/cluster/leader", post(cluster::lead))
            .route("/health", get(status::health))
            .route("/metrics", get(status::metrics))
            .fallback(nowhere)
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn_with_state(self.clone(), around))
            .with_state(self.clone())
    }

    /// Asks the leader. A refusal is a [`Problem`].
    async fn ask(
        &self,
        session: SessionId,
        peer: Peer,
        operation: Operation,
    ) -> Result<(Zxid, Outcome), Problem> {
        self.may_write()?;
        accepted(
            self.edge
                .router
                .ask(request(session, peer, operation))
                .await,
        )
    }

    /// A problem while there is no quorum and the server is told not to wait for one.
    fn may_write(&self) -> Result<(), Problem> {
        match self.edge.read_only.is() {
            true => Err(Problem::read_only()),
            false => Ok(()),
        }
    }
}

/// What the client at the other end asks.
fn request(
    session: SessionId,
    peer: Peer,
    operation: Operation,
) -> quorate_model::request::Request {
    quorate_model::request::Request {
        session,
        owner: None,
        identities: Arc::new(vec![Identity::address(peer.0)]),
        operation,
    }
}

/// What a request came to. A refusal is a [`Problem`].
fn accepted(answer: Result<(Zxid, Outcome), Unavailable>) -> Result<(Zxid, Outcome), Problem> {
    match answer {
        Ok((zxid, Outcome::Refused(refusal))) => Err(Problem::refused(&refusal).at(zxid)),
        Ok(answer) => Ok(answer),
        Err(unavailable) => Err(Problem::unavailable(unavailable)),
    }
}

/// An answer: an object, with the zxid in it and in a header.
struct Answer {
    status: StatusCode,
    zxid: Zxid,
    body: Map<String, Value>,
}

impl Answer {
    /// 200, with the members of `body`, which is an object.
    fn new(zxid: Zxid, body: Value) -> Answer {
        let Value::Object(body) = body else {
            unreachable!("answers are objects");
        };
        Answer::of(zxid, body)
    }

    /// 200, with these members.
    fn of(zxid: Zxid, body: Map<String, Value>) -> Answer {
        Answer {
            status: StatusCode::OK,
            zxid,
            body,
        }
    }

    fn with_status(self, status: StatusCode) -> Answer {
        Answer { status, ..self }
    }
}

impl IntoResponse for Answer {
    fn into_response(mut self) -> Response {
        self.body.insert("zxid".into(), self.zxid.0.into());
        let header = (ZXID_HEADER, HeaderValue::from(self.zxid.0));
        (self.status, [header], Json(self.body)).into_response()
    }
}

type Answered = Result<Answer, Problem>;

/// What holds for every request: the waits for `at_least` and for a barrier, the zxid of answers that have none of their own, the bound on answers, the counting.
async fn around(State(http): State<Arc<Http>>, request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let seen = async {
        http.may_serve(&method, &uri)?;
        http.may_read(&method, &uri)?;
        http.wait_for_at_least(&method, &uri).await?;
        http.wait_for_newest(&method, &uri).await
    };
    let answer = async {
        let response = match seen.await {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        };
        sending::hold(&http.answers, response).await
    };
    let mut response = match http.silent_after_ms(&method, &uri) {
        Some(limit_ms) => http.unless_silent(limit_ms, answer).await,
        None => answer.await,
    };
    let last_zxid = http.edge.watches.last_zxid();
    response
        .headers_mut()
        .entry(ZXID_HEADER)
        .or_insert_with(|| HeaderValue::from(last_zxid.0));
    http.edge.metrics.http_requests.inc();
    if response.status().as_u16() >= 400 {
        http.edge.metrics.http_errors.inc();
    }
    response
}

impl Http {
    /// Where reads are to be linearizable, one of the state sees all that was acknowledged before it was sent.
    async fn wait_for_newest(&self, method: &Method, uri: &Uri) -> Result<(), Problem> {
        let of_state = || {
            let below = |root| uri.path().starts_with(root);
            ["/v1/tree", "/v1/mounts", "/v1/recipes"]
                .into_iter()
                .any(below)
        };
        if !self.edge.limits.linearizable_reads || method != Method::GET || !of_state() {
            return Ok(());
        }
        timeout(NEWEST_DEADLINE, self.edge.router.barriers().pass_one())
            .await
            .map_err(|_| Problem::no_leader())
    }

    /// The state, to be read; a problem while there is none.
    fn state(&self) -> Result<RwLockReadGuard<'_, quorate_tree::State>, Problem> {
        let state = self.edge.state.read();
        match state.is_vacant() {
            true => Err(Problem::installing()),
            false => Ok(state),
        }
    }

    /// A server that was started and does not serve yet says how it is and who the members are, and nothing else.
    fn may_serve(&self, method: &Method, uri: &Uri) -> Result<(), Problem> {
        let of_itself = match uri.path() {
            "/health" | "/metrics" => true,
            "/v1/cluster" => method == Method::GET,
            _ => false,
        };
        match self.edge.waits().filter(|_| !of_itself) {
            Some(reason) => Err(Problem::waiting(&reason)),
            None => Ok(()),
        }
    }

    /// How long after the last word of a quorum a request is answered (rule W4), in milliseconds; none for what tells of
    /// this very server, and for changes of the members.
    fn silent_after_ms(&self, method: &Method, uri: &Uri) -> Option<u64> {
        if let Some(of_session) = uri.path().strip_prefix("/v1/sessions/") {
            let token = of_session.split('/').next().unwrap_or_default();
            return Some(self.timeout_ms(token).map_or(NO_SESSION_MS, limit_ms));
        }
        let of_state = || {
            let below = |root| uri.path().starts_with(root);
            [
                "/v1/tree",
                "/v1/mounts",
                "/v1/recipes",
                "/v1/components",
                "/v1/calls",
            ]
            .into_iter()
            .any(below)
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            // Changes of the members have deadlines of their own, and may be what brings the quorum back.
            let of_ensemble = uri.path().starts_with("/v1/cluster");
            return (!of_ensemble).then_some(NO_SESSION_WRITE_MS);
        }
        // What a read-only server shows may be old, as its operator wishes.
        (of_state() && !self.edge.read_only.is()).then_some(NO_SESSION_MS)
    }

    /// The answer, unless this server has heard of no quorum for so long before it is there.
    async fn unless_silent(
        &self,
        limit_ms: u64,
        answer: impl Future<Output = Response>,
    ) -> Response {
        let silence = &self.edge.silence;
        let answer = tokio::select! {
            biased;
            () = silence.silent_for(limit_ms) => None,
            answer = answer => Some(answer),
        };
        // The clock is looked at again, as this process may have stood still.
        let answer = answer.filter(|_| !silence.is_silent_for(limit_ms));
        answer.unwrap_or_else(|| Problem::no_quorum().into_response())
    }

    /// A server that has stopped shows its state no more: it may be old, or wrong. Who the members are, and how it is, it says.
    fn may_read(&self, method: &Method, uri: &Uri) -> Result<(), Problem> {
        let path = uri.path();
        let of_state = path.starts_with("/v1/") && !path.starts_with("/v1/cluster");
        if method != Method::GET || !of_state {
            return Ok(());
        }
        (self.health)()
            .map_err(|reason| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason))
    }

    /// A read with `?at_least=<zxid>` sees at least that transaction (rule W3).
    async fn wait_for_at_least(&self, method: &Method, uri: &Uri) -> Result<(), Problem> {
        let wanted = uri.query().and_then(|query| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix("at_least="))
        });
        let Some(wanted) = wanted else {
            return Ok(());
        };
        if method != Method::GET {
            return Err(Problem::bad_request("at_least goes with GET only"));
        }
        let zxid = parse_zxid(wanted).ok_or_else(|| {
            Problem::bad_request("at_least is a zxid: a number, or 0x and its hexadecimal digits")
        })?;
        if self.edge.state.read().last_zxid() >= zxid {
            return Ok(());
        }
        timeout(AT_LEAST_DEADLINE, self.edge.watches.reached(zxid))
            .await
            .map_err(|_| Problem::behind(zxid, self.edge.watches.last_zxid()))
    }
}

fn parse_zxid(text: &str) -> Option<Zxid> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .ok()
    .map(Zxid)
}

async fn nowhere(request: Request) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        format!(
            "there is nothing at {}: the interface is below /v1 (sessions, recipes, mounts, tree), \
             /health and /metrics",
            request.uri().path()
        ),
    )
}

async fn wrong_method(request: Request) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        format!(
            "{} does not go with {}",
            request.method(),
            request.uri().path()
        ),
    )
}

#[cfg(test)]
mod tests;
