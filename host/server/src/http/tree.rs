//! The tree, to look at.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quorate_model::acl::permission;
use quorate_model::outcome::Refusal;
use quorate_model::path::ZnodePath;
use quorate_model::run::Range;
use quorate_model::znode::{Lifetime, Stat};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Path, Query};
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer};

/// How many children one answer names, unless the client wishes for fewer.
const MAX_CHILDREN: u32 = 10_000;

/// Which children to name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Those that stand after this name.
    after: Option<String>,
    /// At most so many.
    limit: Option<u32>,
    /// Waited for already.
    #[serde(rename = "at_least")]
    _at_least: Option<String>,
}

/// `GET /v1/tree`
pub(super) async fn root(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Query(page): Query<Page>,
) -> Answered {
    http.show(peer, &ZnodePath::root(), page)
}

/// `GET /v1/tree/<path>`
pub(super) async fn znode(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(path): Path<String>,
    Query(page): Query<Page>,
) -> Answered {
    let path = ZnodePath::parse(&format!("/{path}"))
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    http.show(peer, &path, page)
}

impl Http {
    /// A znode to whom its access control list lets read it: over HTTP nobody is known by more than the address.
    fn show(&self, peer: Peer, path: &ZnodePath, page: Page) -> Answered {
        let range = Range {
            after: page.after,
            before: None,
            descending: false,
            limit: page.limit.unwrap_or(MAX_CHILDREN).min(MAX_CHILDREN),
        };
        let identities = self.edge.limits.access.identities(peer.0);
        let (node, children, zxid) = {
            let state = self.state()?;
            let zxid = state.last_zxid();
            let refused = |refusal| Problem::refused(&refusal).at(zxid);
            let znode = state.find(path);
            let znode = znode.ok_or_else(|| refused(Refusal::NoNode(path.clone())))?;
            if !znode.permits(permission::READ, &identities) {
                return Err(refused(Refusal::no_permission(path, permission::READ)));
            }
            (znode.node(), znode.children_in(&range), zxid)
        };
        let mut body = json!({
            "path": path.as_str(),
            "stat": stat(&node.stat),
            "children": children,
        });
        match std::str::from_utf8(&node.data) {
            Ok(text) => body["data"] = text.into(),
            Err(_) => body["data_base64"] = BASE64_STANDARD.encode(&node.data).into(),
        }
        Ok(Answer::new(zxid, body))
    }
}

fn stat(stat: &Stat) -> Value {
    json!({
        "created": stat.created.0,
        "modified": stat.modified.0,
        "children_modified": stat.children_modified.0,
        "created_at": stat.created_at.0,
        "modified_at": stat.modified_at.0,
        "version": stat.version,
        "children_version": stat.children_version,
        "acl_version": stat.acl_version,
        "lifetime": lifetime(stat.lifetime),
        "data_length": stat.data_length,
        "children": stat.children,
    })
}

fn lifetime(lifetime: Lifetime) -> Value {
    match lifetime {
        Lifetime::Persistent => "persistent".into(),
        Lifetime::Container => "container".into(),
        Lifetime::Session(session) => json!({"session": session.to_string()}),
        Lifetime::Until(moment) => json!({"until": moment.0}),
    }
}
