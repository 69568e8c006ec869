//! What recipes do: counted and logged by the server that leads, told by any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use quorate_model::id::{Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::extract::Query;
use super::problem::Problem;
use super::trials::compared_shown;
use super::{Answer, Answered, Http, parse_zxid};
use crate::activity::{Counted, Look, MAX_WAIT_MS, Seen, Wanted};
use crate::route;

/// How long the leader may take to answer, beside what it is told to wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /v1/activity`: each mount, its parked calls, and what its operations did.
pub(super) async fn operations(State(http): State<Arc<Http>>) -> Answered {
    let (counted, shadows) = match http.look(Look::Operations, PATIENCE).await? {
        Seen::Operations { counted, shadows } => (counted, shadows),
        other => return Err(Problem::unexpected(other)),
    };
    let mut by_mount: BTreeMap<ZnodePath, Vec<Value>> = BTreeMap::new();
    for ((mount, operation), counted) in counted {
        let operations = by_mount.entry(mount).or_default();
        operations.push(operation_shown(&operation, &counted));
    }
    let state = http.state()?;
    let mounts: Vec<Value> = state
        .mounts()
        .map(|mount| {
            let oldest = state.parked_at(&mount.path).next().map(|call| call.started);
            let age_ms = |started: Timestamp| state.last_time().0.saturating_sub(started.0);
            json!({
                "mount": mount.path.as_str(),
                "recipe": mount.recipe,
                "parked": state.parked_number(Some(&mount.path)),
                "oldest_parked_ms": oldest.map(age_ms),
                "shadow": mount.shadow.and_then(|digest| {
                    let compared = shadows.get(&mount.path)?;
                    (compared.digest == digest).then(|| compared_shown(compared))
                }),
                "operations": by_mount.remove(&mount.path).unwrap_or_default(),
            })
        })
        .collect();
    Ok(Answer::new(state.last_zxid(), json!({"mounts": mounts})))
}

fn operation_shown(operation: &str, counted: &Counted) -> Value {
    json!({
        "operation": operation,
        "calls": counted.calls,
        "runs": counted.runs,
        "endings": counted.endings,
        "fuel": counted.fuel,
        "micros": counted.micros,
        "longest_micros": counted.longest_micros,
        "written_bytes": counted.written_bytes,
    })
}

/// Which lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Those behind this transaction.
    after: Option<String>,
    /// Those of this mount.
    mount: Option<String>,
    /// If there are none: how long to wait for some.
    #[serde(default)]
    wait_ms: u64,
}

/// `GET /v1/activity/lines`: what recipes wrote, the oldest first.
pub(super) async fn lines(State(http): State<Arc<Http>>, Query(page): Query<Page>) -> Answered {
    let after = match page.after.as_deref() {
        None => Zxid::ZERO,
        Some(text) => parse_zxid(text)
            .ok_or_else(|| Problem::bad_request("after is the \"next\" of the answer before"))?,
    };
    let mount = page.mount.as_deref().map(ZnodePath::parse).transpose();
    let mount = mount.map_err(|error| Problem::bad_request(format!("mount: {error}")))?;
    let wait_ms = page.wait_ms.min(MAX_WAIT_MS);
    let look = Look::Lines {
        wanted: Wanted { after, mount },
        wait_ms,
    };
    let patience = PATIENCE + Duration::from_millis(wait_ms);
    let (lines, next) = match http.look(look, patience).await? {
        Seen::Lines { lines, next } => (lines, next),
        other => return Err(Problem::unexpected(other)),
    };
    let body = json!({"lines": lines, "next": next.0.to_string()});
    Ok(Answer::new(http.edge.watches.last_zxid(), body))
}

impl Http {
    /// Looks at the server that leads.
    pub(super) async fn look(&self, look: Look, patience: Duration) -> Result<Seen, Problem> {
        let leader = match &self.consensus {
            None => None,
            Some(consensus) => {
                let leader = consensus.leadership().borrow().leader;
                let leader = leader.ok_or_else(Problem::no_leader)?;
                Some((consensus, leader)).filter(|_| leader != self.edge.router.server())
            }
        };
        let Some((consensus, leader)) = leader else {
            return Ok(self.edge.activity.look(look).await);
        };
        let asked = async {
            let stream = consensus.connect(leader).await?;
            route::ask_for_look(stream, look).await
        };
        match timeout(patience, asked).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) | Err(_) => Err(Problem::no_leader()),
        }
    }
}
