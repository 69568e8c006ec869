//! Recipes: uploaded, listed, shown, removed.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use quorate_model::id::SessionId;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::{Exports, Recipe, RecipeDigest, RecipeVersion};
use quorate_model::request::Operation;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer, body};

/// The largest upload, in bytes. It is one raft entry and part of every snapshot.
const MAX_UPLOAD_BYTES: usize = 16 << 20;

/// How many uploads are held and checked at once: checking compiles, which takes processors and memory.
pub(super) const MAX_UPLOADS: usize = 2;

/// How many components are described at once.
pub(super) const MAX_DESCRIPTIONS: usize = 2;

/// How long an upload waits for its turn.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

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
    fn misfits(&self, component: &Bytes, calls: &[ParkedKind]) -> Result<u64, String>;

    /// What a component offers that was checked before.
    ///
    /// # Errors
    /// Why they cannot be told, for the operator.
    fn describe(&self, component: &Bytes) -> Result<Description, String>;
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
    /// What is kept.
    pub component: Bytes,
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
            Some((shown, component))
        });
        (found, state.last_zxid())
    };
    let (mut body, component) =
        found.ok_or_else(|| Problem::refused(&Refusal::NoRecipe(name)).at(zxid))?;
    let check = http.check.clone();
    let described = http.blocking(move || check.describe(&component)).await?;
    body.extend(described.map_err(Problem::internal)?);
    Ok(Answer::of(zxid, body))
}

/// `PUT /v1/recipes/<name>`
pub(super) async fn push(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    body: Body,
) -> Answered {
    check_name(&name)?;
    let turn = timeout(UPLOAD_PATIENCE, http.uploads.acquire()).await;
    // Never closed, so the only failure is the time.
    let Ok(Ok(_turn)) = turn else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "other uploads are being checked: try again",
        ));
    };
    let upload = body::read(body, "a recipe", MAX_UPLOAD_BYTES).await?;
    let check = http.check.clone();
    // The body is held in one place: the task that waits for the answer has none of it.
    let prepared = tokio::task::spawn_blocking(move || check.prepare(upload)).await;
    let recipe = prepared
        .map_err(Problem::internal)?
        .map_err(|message| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-recipe", message))?;
    let operation = Operation::PushRecipe {
        name: name.clone(),
        component: recipe.component,
        version: recipe.version,
        exports: recipe.exports,
    };
    match http.ask(SessionId::NONE, peer, operation).await? {
        (zxid, Outcome::Pushed(digest)) => {
            let mut body = recipe.description;
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
    /// Runs what takes long where it holds nobody up.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let _turn = self
            .descriptions
            .acquire()
            .await
            .map_err(Problem::internal)?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(Problem::internal)
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
