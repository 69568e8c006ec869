//! Recipes: uploaded, listed, shown, removed.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::{
    Component, Exports, MAX_COMPONENT_BYTES, Recipe, RecipeDigest, RecipeVersion,
};
use quorate_model::request::Operation;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer, body};
use crate::{bounds, route, upload};

/// The largest upload, in bytes.
const MAX_UPLOAD_BYTES: usize = MAX_COMPONENT_BYTES;

/// How many uploads are held and checked at once. One is compiled at a time.
pub(crate) const MAX_UPLOADS: usize = 4;

/// How many components are described at once.
pub(super) const MAX_DESCRIPTIONS: usize = 2;

/// How long an upload waits for its turn.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

/// How many answers to mounts wait at once for a recipe to be compiled: each holds its component.
pub(super) const MAX_COMPILATIONS: usize = 4;

/// How long the answer to a mount waits for the server that leads to compile the recipe.
const READY_PATIENCE: Duration = Duration::from_secs(12);

/// The longest name of a recipe.
const MAX_NAME_BYTES: usize = 100;

/// Looks at uploads and at kept components: the sandbox. Both functions may take long and are called where that does no harm.
pub trait RecipeCheck: Send + Sync + 'static {
    /// Checks an upload, makes the component of it, and compiles that for this server.
    ///
    /// # Errors
    /// What is wrong with it and what to do, for its author.
    fn prepare(&self, upload: Bytes) -> Result<CheckedRecipe, String>;

    /// How many of these parked calls do not fit a component that was checked before.
    ///
    /// # Errors
    /// Why that cannot be told, for the operator.
    fn misfits(
        &self,
        digest: &RecipeDigest,
        component: &Component,
        calls: &[ParkedKind],
    ) -> Result<u64, String>;

    /// Has a component that was checked before compiled for this server.
    ///
    /// # Errors
    /// Why it cannot be, for the operator.
    fn make_ready(&self, digest: &RecipeDigest, component: &Component) -> Result<(), String>;

    /// What a component offers that was checked before.
    ///
    /// # Errors
    /// Why they cannot be told, for the operator.
    fn describe(&self, digest: &RecipeDigest, component: &Component)
    -> Result<Description, String>;
}

/// Parked calls of the same operation with the same arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedKind {
    /// As it was called.
    pub operation: String,
    /// As JSON.
    pub arguments: String,
    /// How many.
    pub count: u64,
}

/// An upload that has passed.
#[derive(Clone, Debug)]
pub struct CheckedRecipe {
    /// Of the component.
    pub digest: RecipeDigest,
    /// What is kept.
    pub component: Component,
    /// The version of its WIT package, if that has one.
    pub version: Option<String>,
    /// What it exports beside its operations.
    pub exports: Exports,
    /// What it offers.
    pub description: Description,
}

/// What a recipe offers, as a JSON object: its `operations` with their parameters, results and
/// documentation, and whatever else the sandbox tells of it.
pub type Description = Map<String, Value>;

/// `GET /v1/recipes`
pub(super) async fn list(State(http): State<Arc<Http>>) -> Answered {
    let state = http.state()?;
    let recipes: Vec<Value> = state
        .recipes()
        .map(|recipe| {
            let mounts: Vec<&str> = state
                .mounts()
                .filter(|mount| mount.digest == recipe.current.digest)
                .map(|mount| mount.path.as_str())
                .collect();
            let mut shown = shown(recipe);
            shown.insert("mounts".into(), mounts.into());
            shown.into()
        })
        .collect();
    Ok(Answer::new(state.last_zxid(), json!({"recipes": recipes})))
}

/// `GET /v1/components/<digest>`: the component itself, whatever names it has.
pub(super) async fn component(
    State(http): State<Arc<Http>>,
    Path(digest): Path<String>,
) -> Result<Response, Problem> {
    let digest: RecipeDigest = digest.parse().map_err(Problem::bad_request)?;
    let component = http.state()?.component(&digest).cloned();
    let component = component.ok_or_else(|| Problem::not_found("there is no such component"))?;
    let kind = [(CONTENT_TYPE, "application/wasm")];
    Ok((kind, Body::from(component.joined())).into_response())
}

/// `GET /v1/recipes/<name>`
pub(super) async fn show(State(http): State<Arc<Http>>, Path(name): Path<String>) -> Answered {
    let (found, zxid) = {
        let state = http.state()?;
        let found = state.recipe(&name).and_then(|recipe| {
            let component = state.component(&recipe.current.digest)?.clone();
            let mut shown = shown(recipe);
            let mounts = |version: &RecipeVersion| -> Vec<&str> {
                let mounts = state.mounts();
                let mounts = mounts.filter(|it| it.recipe == name && it.digest == version.digest);
                mounts.map(|mount| mount.path.as_str()).collect()
            };
            let versions = recipe.versions().map(|version| {
                let mut one = of_version(version);
                one.insert("mounts".into(), mounts(version).into());
                Value::Object(one)
            });
            shown.insert("versions".into(), versions.collect());
            Some((shown, recipe.current.digest, component))
        });
        (found, state.last_zxid())
    };
    let (mut body, digest, component) =
        found.ok_or_else(|| Problem::refused(&Refusal::NoRecipe(name)).at(zxid))?;
    body.extend(http.describe(digest, component).await?);
    Ok(Answer::of(zxid, body))
}

/// What is kept already.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    digest: String,
}

/// `POST /v1/recipes/<name>`: another name for what is kept, or the same for another version of it.
pub(super) async fn name(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    body: Body,
) -> Answered {
    check_name(&name)?;
    let Named { digest } = body::json(body, r#"{"digest": "…"}"#).await?;
    let digest: RecipeDigest = digest.parse().map_err(Problem::bad_request)?;
    let found = http.state()?.component(&digest).cloned();
    let component = found.ok_or_else(|| Problem::refused(&Refusal::NoComponent(digest)))?;
    let description = http.describe(digest, component).await?;
    let says = |what| description.get(what).and_then(Value::as_bool) == Some(true);
    let version = description.get("version").and_then(Value::as_str);
    let operation = Operation::PushRecipe {
        name: name.clone(),
        digest,
        version: version.map(str::to_owned),
        exports: Exports {
            guard: says("guard"),
            standing: says("standing"),
        },
    };
    let answer = http.ask(SessionId::NONE, peer, operation).await?;
    pushed(&http, &name, description, answer)
}

/// `PUT /v1/recipes/<name>`
pub(super) async fn push(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    body: Body,
) -> Answered {
    check_name(&name)?;
    let turn = timeout(UPLOAD_PATIENCE, http.uploads.clone().acquire_owned()).await;
    // Never closed, so the only failure is the time.
    let Ok(Ok(turn)) = turn else {
        http.edge.metrics.reached(bounds::UPLOADS_AT_ONCE);
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "other uploads are being checked: try again",
        ));
    };
    let upload = body::upload(body, MAX_UPLOAD_BYTES).await;
    let upload = upload.inspect_err(|problem| {
        if problem.is_too_large() {
            http.edge.metrics.reached(bounds::UPLOAD_BYTES);
        } else if problem.is_too_slow() {
            http.edge.metrics.reached(bounds::UPLOAD_RATE);
        }
    })?;
    let check = http.check.clone();
    // The body is held in one place: the task that waits for the answer has none of it. The turn lasts as long as
    // the check does, also if whoever asked has gone away.
    let prepared = tokio::task::spawn_blocking(move || (check.prepare(upload), turn)).await;
    let (prepared, _turn) = prepared.map_err(Problem::internal)?;
    let recipe = prepared
        .map_err(|message| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-recipe", message))?;
    http.may_write()?;
    let request = |operation| super::request(SessionId::NONE, peer, operation);
    let router = &http.edge.router;
    let kept = upload::keep(router, &name, &recipe, request).await;
    let answer = super::accepted(kept)?;
    pushed(&http, &name, recipe.description, answer)
}

fn pushed(http: &Http, name: &str, description: Description, answer: (Zxid, Outcome)) -> Answered {
    match answer {
        (zxid, Outcome::Pushed(digest)) => {
            let mut body = description;
            // They go on with what they were mounted with, until they are upgraded.
            let outdated: Vec<Value> = {
                let state = http.state()?;
                let mounts = state.mounts();
                mounts
                    .filter(|mount| mount.recipe == name && mount.digest != digest)
                    .map(|mount| {
                        let digest = mount.digest.to_string();
                        json!({"path": mount.path.as_str(), "digest": digest})
                    })
                    .collect()
            };
            body.insert("name".into(), name.into());
            body.insert("digest".into(), digest.to_string().into());
            body.insert("outdated_mounts".into(), outdated.into());
            Ok(Answer::of(zxid, body).with_status(StatusCode::CREATED))
        }
        (_, other) => Err(Problem::unexpected(other)),
    }
}

/// `DELETE /v1/recipes/<name>`
pub(super) async fn remove(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Answered {
    forget(&http, peer, name, None).await
}

/// `DELETE /v1/recipes/<name>/<digest>`
pub(super) async fn remove_version(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path((name, digest)): Path<(String, String)>,
) -> Answered {
    let digest = digest
        .parse::<RecipeDigest>()
        .map_err(Problem::bad_request)?;
    forget(&http, peer, name, Some(digest)).await
}

async fn forget(http: &Http, peer: Peer, name: String, digest: Option<RecipeDigest>) -> Answered {
    let operation = Operation::RemoveRecipe { name, digest };
    match http.ask(SessionId::NONE, peer, operation).await? {
        (zxid, Outcome::Removed) => Ok(Answer::new(zxid, json!({}))),
        (_, other) => Err(Problem::unexpected(other)),
    }
}

impl Http {
    /// Has a component compiled where calls run, so that the first ones find it ready: here, and at the server that
    /// leads. Says whether it is; not, if that takes too long.
    pub(super) async fn make_ready(&self, digest: RecipeDigest) -> bool {
        let Some(component) = self
            .state()
            .ok()
            .and_then(|state| state.component(&digest).cloned())
        else {
            return false;
        };
        // Whoever comes beyond that is answered at once, and may ask again.
        let Ok(_turn) = self.compilations.try_acquire() else {
            return false;
        };
        let check = self.check.clone();
        let made = tokio::task::spawn_blocking(move || check.make_ready(&digest, &component));
        let (made, elsewhere) = tokio::join!(made, self.await_leader(digest));
        let made = made.map_err(|error| error.to_string()).flatten();
        if let Err(error) = &made {
            tracing::error!(%digest, "a recipe cannot be made ready: {error}");
        }
        elsewhere.unwrap_or(made.is_ok())
    }

    /// Whether a component is compiled at another server, which leads and has it compiled, within a while; none if
    /// no other leads.
    async fn await_leader(&self, digest: RecipeDigest) -> Option<bool> {
        let consensus = self.consensus.as_ref()?;
        let leader = consensus.leadership().borrow().leader;
        let here = self.edge.router.server();
        let leader = leader.filter(|leader| *leader != here)?;
        let asked = async {
            let stream = consensus.connect(leader).await?;
            route::ask_for_recipe(stream, digest).await
        };
        let asked = timeout(READY_PATIENCE, asked).await;
        let ready = matches!(asked, Ok(Ok(true)));
        if !ready {
            tracing::info!(%digest, %leader, "a recipe is not ready yet at the server that leads");
        }
        Some(ready)
    }

    /// What a component offers. That may take long, so it is found out where it holds nobody up.
    async fn describe(
        &self,
        digest: RecipeDigest,
        component: Component,
    ) -> Result<Description, Problem> {
        let turn = self.descriptions.clone().acquire_owned().await;
        let turn = turn.map_err(Problem::internal)?;
        let check = self.check.clone();
        let described =
            tokio::task::spawn_blocking(move || (check.describe(&digest, &component), turn)).await;
        let (described, _turn) = described.map_err(Problem::internal)?;
        described.map_err(Problem::internal)
    }
}

impl Http {
    /// How many of these calls do not fit a component. Found out where it holds nobody up.
    pub(super) async fn misfits(
        &self,
        digest: RecipeDigest,
        component: Component,
        calls: Vec<ParkedKind>,
    ) -> Result<u64, Problem> {
        let turn = self.descriptions.clone().acquire_owned().await;
        let turn = turn.map_err(Problem::internal)?;
        let check = self.check.clone();
        let counted =
            tokio::task::spawn_blocking(move || (check.misfits(&digest, &component, &calls), turn));
        let (misfits, _turn) = counted.await.map_err(Problem::internal)?;
        misfits.map_err(Problem::internal)
    }
}

fn shown(recipe: &Recipe) -> Map<String, Value> {
    let mut shown = of_version(&recipe.current);
    shown.insert("name".into(), recipe.name.as_str().into());
    shown
}

fn of_version(version: &RecipeVersion) -> Map<String, Value> {
    let members = [
        ("digest", version.digest.to_string().into()),
        ("version", version.version.clone().into()),
        ("bytes", version.size.into()),
        ("pushed_at", version.pushed_at.0.into()),
        ("guard", version.exports.guard.into()),
        ("standing", version.exports.standing.into()),
    ];
    members
        .map(|(name, value): (&str, Value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

fn check_name(name: &str) -> Result<(), Problem> {
    let fits = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        return Ok(());
    }
    Err(Problem::bad_request(format!(
        "{name:?} is no name for a recipe: a small letter, then small letters, digits and hyphens, \
         {MAX_NAME_BYTES} at most"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_recipes_are_plain() {
        for good in ["fair-lock", "a", "x2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Lock", "2x", "a/b", "a b", &"a".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
