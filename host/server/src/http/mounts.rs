//! Mounts: recipes bound to znodes, how, and with which component.

mod settings;
mod steps;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use quorate_model::bound::Bound;
use quorate_model::call::Fingerprint;
use quorate_model::id::{CallId, SessionId};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, RecipeDigest};
use quorate_model::request::Operation;
use serde_json::{Map, Value, json};

use super::extract::Path;
use super::problem::Problem;
use super::recipes::ParkedKind;
use super::{Answer, Answered, Http, Peer, body};
use settings::{Bind, Settings, read_digest};
pub(super) use steps::MAX_IN_STEPS;

const SHAPE: &str = r#"{"recipe": "fair-lock", and if need be "digest": "…", "upgrade": true, "check": true, "parameters": {}, "sealed": true, "bounds": {"fuel": 1000000}, "callers": ["world:anyone"]}"#;

const SETTINGS_SHAPE: &str = r#"{"parameters": {}, "sealed": true, "bounds": {"fuel": 1000000, "log-lines": null}, "callers": ["world:anyone"], "shadow": {"recipe": "fair-lock", "digest": "…"}}, each if need be"#;

/// How many parked calls are looked at before the state's lock is given back.
const LOOKED_AT_ONCE: usize = 1000;

/// `GET /v1/mounts`
pub(super) async fn list(State(http): State<Arc<Http>>) -> Answered {
    let state = http.state()?;
    let mounts: Vec<Value> = state.mounts().map(shown).collect();
    Ok(Answer::new(state.last_zxid(), json!({"mounts": mounts})))
}

/// `GET /v1/mounts/<path>`
pub(super) async fn show(State(http): State<Arc<Http>>, Path(path): Path<String>) -> Answered {
    let path = parse(&path)?;
    let state = http.state()?;
    let mount = state
        .mount(&path)
        .ok_or_else(|| Problem::refused(&Refusal::NotMounted(path.clone())))?;
    let mut shown = shown(mount);
    let bounds: Map<String, Value> = Bound::ALL
        .into_iter()
        .map(|bound| (bound.name().to_owned(), mount.bounds.of(bound).into()))
        .collect();
    shown["bounds"] = bounds.into();
    let standing = state.parked(CallId::standing(mount.mounted));
    let parked = state.parked_number(Some(&path)) - u64::from(standing.is_some());
    shown["parked_calls"] = parked.into();
    shown["standing"] = standing.map_or(Value::Null, |call| {
        let retry = call.retry;
        json!({
            "watches": call.watches.len(),
            "due": call.marked,
            "failures": retry.map_or(0, |retry| retry.failures),
            "retry_at": retry.map(|retry| retry.at.0),
        })
    });
    shown["failures"] = mount.failures.into();
    shown["next_sequence"] = mount.next_sequence.into();
    let parameters = state.node(&path).map(|node| node.data).unwrap_or_default();
    shown["parameters"] = serde_json::from_slice(&parameters).unwrap_or(Value::Null);
    Ok(Answer::new(state.last_zxid(), shown))
}

/// `PUT /v1/mounts/<path>`
pub(super) async fn mount(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(path): Path<String>,
    body: Body,
) -> Answered {
    let path = parse(&path)?;
    let bind: Bind = body::json(body, SHAPE).await?;
    let digest = read_digest(bind.digest)?;
    let settings = Settings {
        parameters: bind.parameters,
        sealed: bind.sealed,
        bounds: bind.bounds,
        callers: bind.callers,
        shadow: bind.shadow,
    };
    let settings = settings.read()?;
    if bind.check {
        return http.check_upgrade(&path, &bind.recipe, digest).await;
    }
    let upgrade = bind.upgrade;
    let component = http.component_of(&bind.recipe, digest)?;
    let operation = Operation::Mount {
        path: path.clone(),
        recipe: bind.recipe,
        digest,
        settings,
        upgrade,
    };
    // An upgrade swaps what runs at once, so that is compiled before.
    let (zxid, outcome) = if upgrade {
        if let Some(digest) = component {
            http.make_ready(digest).await;
        }
        http.in_steps(peer, operation, component).await?
    } else {
        http.ask(SessionId::NONE, peer, operation).await?
    };
    let (followed_calls, ended_calls) = match outcome {
        Outcome::Mounted { .. } => (0, 0),
        Outcome::Followed {
            followed_calls,
            ended_calls,
            ..
        } => (followed_calls, ended_calls),
        other => return Err(Problem::unexpected(other)),
    };
    let mounted = http.state()?.mount(&path).map(|mount| mount.digest);
    // So that its first calls find it ready. What was upgraded was so before.
    let ready = match mounted {
        Some(digest) if !upgrade => http.make_ready(digest).await,
        mounted => mounted.is_some(),
    };
    let state = http.state()?;
    // Somebody may have unmounted it at this very moment.
    let mut body = state.mount(&path).map_or_else(|| json!({}), shown);
    body["ready"] = ready.into();
    if upgrade {
        body["followed_calls"] = followed_calls.into();
        body["ended_calls"] = ended_calls.into();
    }
    Ok(Answer::new(zxid, body).with_status(StatusCode::CREATED))
}

/// `PATCH /v1/mounts/<path>`
pub(super) async fn set(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(path): Path<String>,
    body: Body,
) -> Answered {
    let path = parse(&path)?;
    let settings: Settings = body::json(body, SETTINGS_SHAPE).await?;
    let operation = Operation::SetMount {
        path: path.clone(),
        settings: settings.read()?,
    };
    match http.ask(SessionId::NONE, peer, operation).await? {
        (zxid, Outcome::MountSet) => {
            let state = http.state()?;
            let body = state.mount(&path).map_or_else(|| json!({}), shown);
            Ok(Answer::new(zxid, body))
        }
        (_, other) => Err(Problem::unexpected(other)),
    }
}

/// `POST /v1/resume/<path>`
pub(super) async fn resume(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(path): Path<String>,
) -> Answered {
    let path = parse(&path)?;
    match http
        .ask(SessionId::NONE, peer, Operation::Resume { path })
        .await?
    {
        (zxid, Outcome::Resumed { was_suspended }) => {
            Ok(Answer::new(zxid, json!({"was_suspended": was_suspended})))
        }
        (_, other) => Err(Problem::unexpected(other)),
    }
}

/// `DELETE /v1/mounts/<path>`
pub(super) async fn unmount(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(path): Path<String>,
) -> Answered {
    let path = parse(&path)?;
    let begin = Operation::BeginUnmount { path };
    match http.in_steps(peer, begin, None).await? {
        (zxid, Outcome::Unmounted { ended_calls }) => {
            Ok(Answer::new(zxid, json!({"ended_calls": ended_calls})))
        }
        (_, other) => Err(Problem::unexpected(other)),
    }
}

impl Http {
    /// What that is of a recipe, as far as this server has seen; none if it has seen no such thing.
    fn component_of(
        &self,
        recipe: &str,
        digest: Option<RecipeDigest>,
    ) -> Result<Option<RecipeDigest>, Problem> {
        let state = self.state()?;
        let version = state.recipe(recipe).and_then(|it| it.version(digest));
        Ok(version.map(|version| version.digest))
    }

    /// What an upgrade would do to the calls that wait here, as far as this server has seen them; nothing is changed.
    async fn check_upgrade(
        &self,
        path: &ZnodePath,
        recipe: &str,
        digest: Option<RecipeDigest>,
    ) -> Answered {
        let (before, after, component, zxid) = {
            let state = self.state()?;
            let mount = state
                .mount(path)
                .ok_or_else(|| Problem::refused(&Refusal::NotMounted(path.clone())))?;
            let known = state
                .recipe(recipe)
                .ok_or_else(|| Problem::refused(&Refusal::NoRecipe(recipe.to_owned())))?;
            let version = known.version(digest).ok_or_else(|| {
                Problem::bad_request("the recipe has no component of that digest")
            })?;
            let component = state.component(&version.digest).cloned();
            let component = component.ok_or_else(|| Problem::internal("a component is missing"))?;
            (mount.digest, version.digest, component, state.last_zxid())
        };
        let kinds = self.parked_kinds(path)?;
        let parked: u64 = kinds.iter().map(|kind| kind.count).sum();
        let misfits = self.misfits(after, component, kinds).await?;
        let body = json!({
            "path": path.as_str(),
            "recipe": recipe,
            "digest": before.to_string(),
            "upgrade_to": after.to_string(),
            "parked_calls": parked,
            "ending_calls": misfits,
        });
        Ok(Answer::new(zxid, body))
    }

    /// The parked calls of a mount, those together that are alike. The state's lock is given back again and again.
    fn parked_kinds(&self, path: &ZnodePath) -> Result<Vec<ParkedKind>, Problem> {
        let mut places: HashMap<[u8; 16], usize> = HashMap::new();
        let mut kinds: Vec<ParkedKind> = Vec::new();
        let mut after = None;
        loop {
            let state = self.state()?;
            let calls = state.parked_behind(path, after, LOOKED_AT_ONCE);
            let Some(last) = calls.last() else {
                return Ok(kinds);
            };
            after = Some((last.age, last.id));
            for call in calls.iter().filter(|call| !call.id.is_standing()) {
                let Fingerprint(fingerprint) = call.fingerprint;
                let place = *places.entry(fingerprint).or_insert_with(|| {
                    kinds.push(ParkedKind {
                        operation: call.operation.clone(),
                        arguments: call.arguments.clone(),
                        count: 0,
                    });
                    kinds.len() - 1
                });
                kinds[place].count += 1;
            }
        }
    }
}

fn shown(mount: &Mount) -> Value {
    let own: Map<String, Value> = mount
        .bounds
        .iter()
        .map(|(bound, value)| (bound.name().to_owned(), value.into()))
        .collect();
    let callers: Vec<String> = mount.callers.iter().map(ToString::to_string).collect();
    json!({
        "path": mount.path.as_str(),
        "recipe": mount.recipe,
        "digest": mount.digest.to_string(),
        "shadow": mount.shadow.map(|digest| digest.to_string()),
        "guard": mount.exports.guard,
        "mounted": mount.mounted.0,
        "sealed": mount.sealed,
        "set": own,
        "callers": callers,
        "suspended": mount.suspended,
        "upgrade": mount.upgrade.map(|upgrade| json!({
            "following": upgrade.behind.is_some(),
            "followed_calls": upgrade.followed_calls,
            "ended_calls": upgrade.ended_calls,
        })),
        "unmounting": mount.unmounting.map(|ended_calls| json!({"ended_calls": ended_calls})),
    })
}

fn parse(path: &str) -> Result<ZnodePath, Problem> {
    ZnodePath::parse(&format!("/{path}")).map_err(|error| Problem::bad_request(error.to_string()))
}
