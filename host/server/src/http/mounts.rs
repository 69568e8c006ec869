//! Mounts: recipes bound to znodes.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use quorate_model::id::SessionId;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, RecipeDigest};
use quorate_model::request::Operation;
use quorate_model::znode::MAX_DATA_BYTES;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer, body};

const SHAPE: &str = r#"{"recipe": "fair-lock", and if need be "parameters": {}, "sealed": true}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bind {
    recipe: String,
    /// For a component of that name other than the last pushed.
    #[serde(default)]
    digest: Option<String>,
    /// The znode's data, as JSON text. Absent leaves them as they are, which `null` would not.
    #[serde(default, deserialize_with = "present")]
    parameters: Option<Value>,
    #[serde(default = "sealed")]
    sealed: bool,
}

fn sealed() -> bool {
    true
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

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
    let parked = state.parked_at(&path).count();
    shown["parked_calls"] = parked.into();
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
    let parameters = bind.parameters.map(|parameters| parameters.to_string());
    if parameters
        .as_ref()
        .is_some_and(|data| data.len() > MAX_DATA_BYTES)
    {
        return Err(Problem::too_large("a mount's parameters", MAX_DATA_BYTES));
    }
    let digest = bind
        .digest
        .map(|text| text.parse::<RecipeDigest>())
        .transpose();
    let operation = Operation::Mount {
        path: path.clone(),
        recipe: bind.recipe.clone(),
        digest: digest.map_err(Problem::bad_request)?,
        parameters: parameters.map(Into::into),
        sealed: bind.sealed,
    };
    match http.ask(SessionId::NONE, peer, operation).await? {
        (zxid, Outcome::Mounted(digest)) => {
            let body = json!({
                "path": path.as_str(),
                "recipe": bind.recipe,
                "digest": digest.to_string(),
                "sealed": bind.sealed,
            });
            Ok(Answer::new(zxid, body).with_status(StatusCode::CREATED))
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
    match http
        .ask(SessionId::NONE, peer, Operation::Unmount { path })
        .await?
    {
        (zxid, Outcome::Unmounted { ended_calls }) => {
            Ok(Answer::new(zxid, json!({"ended_calls": ended_calls})))
        }
        (_, other) => Err(Problem::unexpected(other)),
    }
}

fn shown(mount: &Mount) -> Value {
    json!({
        "path": mount.path.as_str(),
        "recipe": mount.recipe,
        "digest": mount.digest.to_string(),
        "mounted": mount.mounted.0,
        "sealed": mount.sealed,
    })
}

fn parse(path: &str) -> Result<ZnodePath, Problem> {
    ZnodePath::parse(&format!("/{path}")).map_err(|error| Problem::bad_request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parameters_are_not_null_ones() {
        let bind = |text| serde_json::from_str::<Bind>(text);
        assert_eq!(bind(r#"{"recipe":"r"}"#).unwrap().parameters, None);
        assert!(bind(r#"{"recipe":"r"}"#).unwrap().sealed);
        let null = bind(r#"{"recipe":"r","parameters":null}"#).unwrap();
        assert_eq!(null.parameters, Some(Value::Null));
        let error = bind(r#"{"recipe":"r","seal":true}"#)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("`seal`") && error.contains("`sealed`"),
            "{error}"
        );
    }
}
