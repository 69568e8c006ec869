//! Administration over HTTP: recipes, mounts, and the servers of an ensemble.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_model::recipe::RecipeDigest;
use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ClientError;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to answer to an upload: it checks and compiles the recipe, behind others perhaps.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(700);

/// How long to a mount, an upgrade and an unmount: the recipe is compiled, here and at the server that leads, and the
/// calls that wait follow or end one after the other.
const MOUNT_PATIENCE: Duration = Duration::from_secs(600);

/// What a component begins with: WebAssembly's magic, the version of the component model's binary form, its layer.
const COMPONENT_HEADER: &[u8] = b"\0asm\x0d\0\x01\0";

/// How long a change of the members may take: the new member's log is awaited.
const CHANGE_PATIENCE: Duration = Duration::from_secs(100);

/// How long it may take to reach it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// Speaks to a server's HTTP port.
#[derive(Clone, Debug)]
pub struct Admin {
    client: reqwest::Client,
    /// `host:port`, for messages.
    server: String,
    base: Url,
}

/// A recipe that a server keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What operators call it.
    pub name: String,
    /// The SHA-256 of its component, in hexadecimal.
    pub digest: String,
    /// The size of its component. Not in the answer to a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The version of its WIT package, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// All components of this name that are kept, the current one first. Of one recipe only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<RecipeVersion>,
    /// When it was pushed, in milliseconds since the Unix epoch. Not in the answer to a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<u64>,
    /// Where this very component is mounted. In a list only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<String>>,
    /// What it offers. Not in a list.
    #[serde(flatten)]
    pub interface: Option<Interface>,
}

/// One component of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecipeVersion {
    /// The SHA-256 of the component, in hexadecimal.
    pub digest: String,
    /// The version of its WIT package, if that has one.
    pub version: Option<String>,
    /// Where it is mounted.
    pub mounts: Vec<String>,
}

/// What a recipe offers, as its author wrote it in WIT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// What its author wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
    /// What can be called.
    pub operations: Vec<Operation>,
    /// The named types that the operations use, each before whatever uses it.
    #[serde(default)]
    pub types: Vec<NamedType>,
}

/// One operation of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// `operation`, or `interface.operation` where two interfaces export the same name.
    pub name: String,
    /// In order.
    pub parameters: Vec<Parameter>,
    /// Its type in WIT; none if it gives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What its author wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
}

impl Operation {
    /// `acquire(name: string) -> grant`.
    pub fn signature(&self) -> String {
        let parameter = |parameter: &Parameter| format!("{}: {}", parameter.name, parameter.kind);
        let parameters: Vec<String> = self.parameters.iter().map(parameter).collect();
        let result = self.result.as_ref().map(|result| format!(" -> {result}"));
        let result = result.unwrap_or_default();
        format!("{}({}){result}", self.name, parameters.join(", "))
    }
}

/// One parameter of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type in WIT.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A type that an operation names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedType {
    /// Its name.
    pub name: String,
    /// Its definition in WIT, in one line.
    pub definition: String,
    /// What its author wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
}

/// A recipe bound to a znode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// The znode.
    pub path: String,
    /// The recipe's name when it was mounted.
    pub recipe: String,
    /// Which component runs: the SHA-256, in hexadecimal.
    pub digest: String,
    /// The component that runs beside it, to be compared: its SHA-256, in hexadecimal.
    #[serde(default)]
    pub shadow: Option<String>,
    /// Whether only the recipe writes below it.
    pub sealed: bool,
    /// The bounds that it has values of its own for.
    #[serde(default)]
    pub set: BTreeMap<String, u64>,
    /// Who may call, each `scheme:id`.
    #[serde(default)]
    pub callers: Vec<String>,
    /// Why nothing runs there until it is resumed.
    #[serde(default)]
    pub suspended: Option<String>,
    /// How the calls that waited have followed the last upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Following>,
    /// It is being unmounted: nothing runs there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmounting: Option<Ended>,
    /// Of a mount that was asked for: whether it is compiled where calls run. If not, calls are refused as not ready
    /// until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Of an upgrade that was asked for: how many calls that waited have followed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed_calls: Option<u64>,
    /// Of an upgrade that was asked for: how many of those have ended, since they do not fit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_calls: Option<u64>,
}

/// How the calls that waited follow an upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Following {
    /// Whether some are still to follow. If nobody goes on with that, to ask for the same upgrade again does.
    pub following: bool,
    /// How many have.
    pub followed_calls: u64,
    /// How many of those have ended, since they do not fit.
    pub ended_calls: u64,
}

/// Calls that an unmount has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// How many.
    pub ended_calls: u64,
}

/// How to mount a recipe; what is none stays as it is, or is as it is by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MountOptions {
    /// The znode's data: the recipe's parameters. None leaves them as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Whether only the recipe writes below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed: Option<bool>,
    /// Bounds by their names; none for the default.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bounds: BTreeMap<String, Option<u64>>,
    /// Who may call, each `scheme:id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callers: Option<Vec<String>>,
    /// What runs beside the mounted component, to be compared; `Some(None)` for nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Option<Shadow>>,
}

/// What runs beside a mounted component, on the same calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shadow {
    /// The recipe's name.
    pub recipe: String,
    /// The digest of one of its components; none for the one that has the name now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What an upgrade would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpgradeCheck {
    /// The mount.
    pub path: String,
    /// The recipe to upgrade to.
    pub recipe: String,
    /// Which component runs now.
    pub digest: String,
    /// Which would.
    pub upgrade_to: String,
    /// How many calls wait.
    pub parked_calls: u64,
    /// How many of those would end, since they do not fit the component.
    pub ending_calls: u64,
}

/// An ensemble, as one of its servers sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The server that was asked.
    pub server: u64,
    /// What it is: `standalone`, `leader`, `follower`, `observer`, `read-only` or `not-serving`.
    pub mode: String,
    /// Who leads, if that is known; none where no quorum was heard of for two seconds.
    pub leader: Option<u64>,
    /// Why the server that was asked does not serve yet, if it was started and has not found a quorum.
    #[serde(default)]
    pub waiting: Option<String>,
    /// How long ago the server that was asked last heard of a quorum, in milliseconds.
    pub quorum_age_ms: u64,
    /// Raft's term.
    pub term: u64,
    /// Whether the members are being changed.
    pub changing: bool,
    /// The index of the last entry that is applied at the server that was asked.
    pub applied_index: Option<u64>,
    /// The index of the last entry in its log.
    pub last_index: Option<u64>,
    /// The last transaction that the asked server has applied; none, as with the next two, while it installs a snapshot.
    pub state_zxid: Option<String>,
    /// The digest of its state then: servers have the same one at the same transaction.
    pub state_digest: Option<String>,
    /// The version that the ensemble is at: every member reads what it brought.
    pub ensemble_version: Option<u32>,
    /// All members, those that vote first.
    pub members: Vec<Member>,
}

/// One server of an ensemble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub server: u64,
    /// Where the others reach it, `host:port`.
    pub address: String,
    /// Where clients reach it, `host:port`; empty until it has said so.
    #[serde(default)]
    pub client_address: String,
    /// Whether it votes.
    pub votes: bool,
    /// The index up to which its log is the leader's. Only the leader knows.
    pub matched_index: Option<u64>,
    /// How long ago the leader last heard of it, in milliseconds. Only the leader knows.
    pub heard_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Recipes {
    recipes: Vec<Recipe>,
}

#[derive(Deserialize)]
struct Mounts {
    mounts: Vec<Mount>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Resumed {
    was_suspended: bool,
}

#[derive(Deserialize)]
struct Problem {
    error: ProblemDetail,
}

#[derive(Deserialize)]
struct ProblemDetail {
    code: String,
    message: String,
}

impl Admin {
    /// Of the server at `server`, as `host:port`.
    ///
    /// # Errors
    /// [`ClientError::NoHttp`] if that is no address. Nothing is sent yet.
    pub fn new(server: &str) -> Result<Admin, ClientError> {
        let wrong = |reason: String| ClientError::NoHttp {
            server: server.to_owned(),
            reason,
        };
        if server.contains('/') {
            return Err(wrong(
                "give host:port, without http:// and without a path".into(),
            ));
        }
        let base = Url::parse(&format!("http://{server}/"))
            .map_err(|error| wrong(format!("it is no host:port ({error})")))?;
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            // A server's administration is near by; a proxy for the web is in the way.
            .no_proxy()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Admin {
            client,
            server: server.to_owned(),
            base,
        })
    }

    /// Uploads a component, or a core module that carries its interface, under a name. Gives what it offers.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says what is wrong with it.
    pub async fn push_recipe(
        &self,
        name: &str,
        component: impl Into<Bytes>,
    ) -> Result<Recipe, ClientError> {
        let component = component.into();
        if component.starts_with(COMPONENT_HEADER) {
            // What is kept already need not be sent again.
            let digest = RecipeDigest::of(&component).to_string();
            match self.name_recipe(name, &digest).await {
                Err(ClientError::Refused { code, .. }) if code == "no-component" => {}
                named => return named,
            }
        }
        let request = self.request(Method::PUT, &["recipes", name]);
        self.send_within(UPLOAD_PATIENCE, request.body(component))
            .await
    }

    /// Gives a name to a component that the servers keep already, known by its digest (64 hexadecimal digits): an
    /// earlier version that is still mounted, say. Gives what it offers.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-component`.
    pub async fn name_recipe(&self, name: &str, digest: &str) -> Result<Recipe, ClientError> {
        let request = self.request(Method::POST, &["recipes", name]);
        self.send(request.json(&json!({"digest": digest}))).await
    }

    /// All recipes.
    ///
    /// # Errors
    /// [`ClientError::NoHttp`].
    pub async fn recipes(&self) -> Result<Vec<Recipe>, ClientError> {
        let answer: Recipes = self.send(self.request(Method::GET, &["recipes"])).await?;
        Ok(answer.recipes)
    }

    /// One recipe with its operations.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-recipe`.
    pub async fn recipe(&self, name: &str) -> Result<Recipe, ClientError> {
        self.send(self.request(Method::GET, &["recipes", name]))
            .await
    }

    /// Forgets a recipe that is not mounted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-recipe` or `recipe-in-use`.
    pub async fn remove_recipe(&self, name: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["recipes", name]);
        let Nothing {} = self.send(request).await?;
        Ok(())
    }

    /// Binds a recipe to the znode at `path`, which is created if need be.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-recipe` or `mounts-nest`.
    pub async fn mount(
        &self,
        path: &str,
        recipe: &str,
        options: MountOptions,
    ) -> Result<Mount, ClientError> {
        self.bind(path, &options, json!({"recipe": recipe})).await
    }

    /// Swaps the component that is mounted at `path` for another: the last pushed under the name `recipe`, or the one
    /// with `digest`. The tree and the calls that wait stay.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-recipe`, `not-mounted` or `not-ready`.
    pub async fn upgrade(
        &self,
        path: &str,
        recipe: &str,
        digest: Option<&str>,
        options: MountOptions,
    ) -> Result<Mount, ClientError> {
        let body = json!({"recipe": recipe, "digest": digest, "upgrade": true});
        self.bind(path, &options, body).await
    }

    /// What an upgrade would do to the calls that wait; nothing is changed.
    ///
    /// # Errors
    /// As of [`Admin::upgrade`].
    pub async fn check_upgrade(
        &self,
        path: &str,
        recipe: &str,
        digest: Option<&str>,
    ) -> Result<UpgradeCheck, ClientError> {
        let body = json!({"recipe": recipe, "digest": digest, "upgrade": true, "check": true});
        self.send(self.mount_request(Method::PUT, path).json(&body))
            .await
    }

    async fn bind(
        &self,
        path: &str,
        options: &MountOptions,
        mut body: Value,
    ) -> Result<Mount, ClientError> {
        let options = serde_json::to_value(options).unwrap_or_default();
        if let (Some(body), Value::Object(options)) = (body.as_object_mut(), options) {
            body.extend(options);
        }
        let request = self.mount_request(Method::PUT, path).json(&body);
        self.send_within(MOUNT_PATIENCE, request).await
    }

    /// Changes how a recipe is mounted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-mounted` or `bad-arguments`.
    pub async fn set_mount(&self, path: &str, options: MountOptions) -> Result<Mount, ClientError> {
        self.send(self.mount_request(Method::PATCH, path).json(&options))
            .await
    }

    /// Lets a suspended recipe run again; says whether it was suspended.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-mounted`.
    pub async fn resume(&self, path: &str) -> Result<bool, ClientError> {
        let resumed: Resumed = self
            .send(self.path_request(Method::POST, "resume", path))
            .await?;
        Ok(resumed.was_suspended)
    }

    /// All there is to know of a mount, as the server says it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-mounted`.
    pub async fn mount_document(&self, path: &str) -> Result<Value, ClientError> {
        self.send(self.mount_request(Method::GET, path)).await
    }

    /// Forgets one component of a recipe, which is not mounted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-recipe` or `recipe-in-use`.
    pub async fn remove_recipe_version(&self, name: &str, digest: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["recipes", name, digest]);
        let Nothing {} = self.send(request).await?;
        Ok(())
    }

    /// All mounts.
    ///
    /// # Errors
    /// [`ClientError::NoHttp`].
    pub async fn mounts(&self) -> Result<Vec<Mount>, ClientError> {
        let answer: Mounts = self.send(self.request(Method::GET, &["mounts"])).await?;
        Ok(answer.mounts)
    }

    /// Unbinds the recipe at `path`; its znodes stay. Gives how many parked calls that ended, one after the other: if
    /// it is interrupted, to ask again goes on.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-mounted`.
    pub async fn unmount(&self, path: &str) -> Result<u64, ClientError> {
        let request = self.mount_request(Method::DELETE, path);
        let answer: Ended = self.send_within(MOUNT_PATIENCE, request).await?;
        Ok(answer.ended_calls)
    }

    /// The ensemble's members, and who leads.
    ///
    /// # Errors
    /// [`ClientError::NoHttp`].
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        self.send(self.request(Method::GET, &["cluster"])).await
    }

    /// Adds a server that was started to join; it does not vote yet. Like every change it may be asked of any member.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-leading`, or `refused` if it makes no sense.
    pub async fn add_member(&self, server: u64, address: &str) -> Result<Cluster, ClientError> {
        let request = self.request(Method::POST, &["cluster", "members"]);
        let body = json!({"server": server, "address": address});
        self.send_within(CHANGE_PATIENCE, request.json(&body)).await
    }

    /// Lets a server vote.
    ///
    /// # Errors
    /// As [`Admin::add_member`]; `refused` also if it has not caught up.
    pub async fn promote_member(&self, server: u64) -> Result<Cluster, ClientError> {
        let id = server.to_string();
        let request = self.request(Method::POST, &["cluster", "members", &id, "promote"]);
        self.send_within(CHANGE_PATIENCE, request).await
    }

    /// Removes a server.
    ///
    /// # Errors
    /// As [`Admin::add_member`]; `refused` also if the others would have no quorum. The leader hands the lead over first.
    pub async fn remove_member(&self, server: u64) -> Result<Cluster, ClientError> {
        let id = server.to_string();
        let request = self.request(Method::DELETE, &["cluster", "members", &id]);
        self.send_within(CHANGE_PATIENCE, request).await
    }

    /// Puts the server `new`, at `address`, into the place of `old`, in one change of the members.
    ///
    /// # Errors
    /// As [`Admin::promote_member`] and [`Admin::remove_member`].
    pub async fn replace_member(
        &self,
        old: u64,
        new: u64,
        address: &str,
    ) -> Result<Cluster, ClientError> {
        let id = old.to_string();
        let request = self.request(Method::POST, &["cluster", "members", &id, "replace"]);
        let body = json!({"server": new, "address": address});
        self.send_within(CHANGE_PATIENCE, request.json(&body)).await
    }

    /// Lets another server lead.
    ///
    /// # Errors
    /// As [`Admin::add_member`].
    pub async fn transfer_leader(&self, server: u64) -> Result<Cluster, ClientError> {
        let request = self.request(Method::POST, &["cluster", "leader"]);
        let body = json!({"server": server});
        self.send_within(CHANGE_PATIENCE, request.json(&body)).await
    }

    fn mount_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.path_request(method, "mounts", path)
    }

    fn path_request(&self, method: Method, root: &str, path: &str) -> RequestBuilder {
        let names = path.split('/').filter(|name| !name.is_empty());
        let segments: Vec<&str> = std::iter::once(root).chain(names).collect();
        self.request(method, &segments)
    }

    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.client.request(method, self.url(segments))
    }

    /// The same, to read, with what is given of these parameters.
    pub(crate) fn question(
        &self,
        segments: &[&str],
        parameters: &[(&str, Option<String>)],
    ) -> RequestBuilder {
        let mut url = self.url(segments);
        for (name, value) in parameters {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        self.client.request(Method::GET, url)
    }

    /// The segments are escaped where a URL needs it.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        self.send_within(PATIENCE, request).await
    }

    pub(crate) async fn send_within<T: DeserializeOwned>(
        &self,
        patience: Duration,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let body = self.fetch(patience, request).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::NoHttp {
            server: self.server.clone(),
            reason: format!("its answer is not Quorate's ({error})"),
        })
    }

    /// The answer's bytes.
    pub(crate) async fn fetch(
        &self,
        patience: Duration,
        request: RequestBuilder,
    ) -> Result<Bytes, ClientError> {
        let (client, request) = request.timeout(patience).build_split();
        let is_read = matches!(&request, Ok(request) if request.method() == Method::GET);
        let broken = |error: reqwest::Error| self.unreachable(patience, is_read, &error);
        let response = client.execute(request.map_err(broken)?).await;
        let response = response.map_err(broken)?;
        let status = response.status();
        let body = response.bytes().await.map_err(broken)?;
        if !status.is_success() {
            return Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(Problem { error }) => ClientError::Refused {
                    code: error.code,
                    message: error.message,
                },
                Err(_) => ClientError::NoHttp {
                    server: self.server.clone(),
                    reason: format!("it answered {status}, which Quorate does not"),
                },
            });
        }
        Ok(body)
    }

    fn unreachable(
        &self,
        patience: Duration,
        is_read: bool,
        error: &reqwest::Error,
    ) -> ClientError {
        let reason = if error.is_connect() && error.is_timeout() {
            format!("it was not reached within {} s", CONNECT_PATIENCE.as_secs())
        } else if error.is_connect() {
            "nobody listens there; is it running? start one with `quorate serve`".into()
        } else if error.is_timeout() {
            let unknown = match is_read {
                true => "",
                false => ": nobody knows whether it was done, so look before repeating it",
            };
            format!(
                "it is connected, but did not answer within {} s{unknown}",
                patience.as_secs()
            )
        } else {
            error.to_string()
        };
        ClientError::NoHttp {
            server: self.server.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_segment_by_segment() {
        let admin = Admin::new("127.0.0.1:2180").unwrap();
        let request = admin.mount_request(Method::GET, "/a b/ü?").build().unwrap();
        assert_eq!(
            request.url().as_str(),
            "http://127.0.0.1:2180/v1/mounts/a%20b/%C3%BC%3F"
        );
        assert!(Admin::new("no host").is_err());
        let named = Admin::new("http://127.0.0.1:2180").unwrap_err();
        assert!(named.to_string().contains("without http://"), "{named}");
    }
}
