//! Create, delete, set, set the access control list, check: one znode each, as ZooKeeper does them.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use quorate_model::acl::{Acl, AclEntry, Identity, permission};
use quorate_model::bound::EPHEMERAL_BYTES;
use quorate_model::id::SessionId;
use quorate_model::outcome::{Refusal, ZnodeOutcome};
use quorate_model::path::ZnodePath;
use quorate_model::request::{CreateLifetime, CreatePath, ZnodeOperation};
use quorate_model::write_set::Change;
use quorate_model::znode::{Lifetime, MAX_DATA_BYTES, Stat};

use crate::apply::Records;
use crate::view::View;

/// About how many bytes the end of a session may take in the log: half of what one entry may have, and
/// room for 100,000 ephemerals with paths of 150 bytes.
const MAX_EPHEMERAL_BYTES: u64 = 32 << 20;

/// "Any version", in a request.
const ANY_VERSION: i32 = -1;

/// Who makes a plain write: what the access control lists ask about. Recipes, guards and the server itself write
/// without one.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) session: SessionId,
    pub(crate) proved: &'a Proved<'a>,
}

/// Who a client has proved to be, and what the lists give to it that one request has come by: each is looked through
/// once, however often and by whatever way a multi comes to it.
pub(crate) struct Proved<'a> {
    identities: &'a [Identity],
    /// By where the list is in memory; which is held, so that no other comes to be there.
    given: RefCell<HashMap<*const AclEntry, (Acl, u32)>>,
}

impl<'a> Proved<'a> {
    pub(crate) fn new(identities: &'a [Identity]) -> Proved<'a> {
        Proved {
            identities,
            given: RefCell::default(),
        }
    }

    /// The same, writing in that session.
    pub(crate) fn writer(&'a self, session: SessionId) -> Writer<'a> {
        Writer {
            session,
            proved: self,
        }
    }

    /// Whether a list gives it a permission.
    pub(crate) fn has(&self, permission: u32, acl: &Acl) -> bool {
        let mut given = self.given.borrow_mut();
        let known = given.entry(acl.0.as_ptr());
        let (_, given) = known.or_insert_with(|| (acl.clone(), acl.given_to(self.identities)));
        *given & permission != 0
    }
}

/// Does one operation of a client; whoever calls takes back what it changed if it is refused.
///
/// Permissions are asked for where ZooKeeper's `PrepRequestProcessor` does it: behind NoNode of the znode whose list
/// counts, and before everything else that depends on the state.
pub(crate) fn execute(
    view: &mut View,
    writer: Writer<'_>,
    operation: &ZnodeOperation,
) -> Result<ZnodeOutcome, Refusal> {
    match operation {
        ZnodeOperation::Create {
            path,
            data,
            acl,
            lifetime,
            with_stat,
        } => {
            let lifetime = match lifetime {
                CreateLifetime::Persistent => Lifetime::Persistent,
                CreateLifetime::Container => Lifetime::Container,
                // Before anything else, as in ZooKeeper.
                CreateLifetime::Ephemeral if view.session(writer.session).is_none() => {
                    return Err(Refusal::LocalSession);
                }
                CreateLifetime::Ephemeral => Lifetime::Session(writer.session),
            };
            create(view, writer, path, data, acl, lifetime, *with_stat)
        }
        ZnodeOperation::Delete { path, version } => delete(view, writer, path, *version),
        ZnodeOperation::Set {
            path,
            data,
            version,
        } => set(view, writer, path, data, *version),
        ZnodeOperation::SetAcl { path, acl, version } => set_acl(view, writer, path, acl, *version),
        ZnodeOperation::Check { path, version } => {
            let stat = view.stat_for(path, permission::READ, writer.proved)?;
            expect_version(path, *version, stat.version)?;
            Ok(ZnodeOutcome::Checked)
        }
    }
}

fn create(
    view: &mut View,
    writer: Writer<'_>,
    path: &CreatePath,
    data: &Bytes,
    acl: &Acl,
    lifetime: Lifetime,
    with_stat: bool,
) -> Result<ZnodeOutcome, Refusal> {
    if acl.0.is_empty() {
        return Err(Refusal::InvalidAcl);
    }
    expect_data_fits(data)?;
    let (parent, name) = match path {
        CreatePath::Exactly(path) => {
            let parent = path.parent();
            let parent = parent.ok_or_else(|| Refusal::NodeExists(path.clone()))?;
            (parent, path.name())
        }
        CreatePath::Sequential { parent, prefix } => (parent.clone(), &**prefix),
    };
    expect_not_configuration(&parent)?;
    expect_open_below(view, &parent, name)?;
    let parent_stat = view.stat_for(&parent, permission::CREATE, writer.proved)?;
    let path = match path {
        CreatePath::Exactly(path) => path.clone(),
        CreatePath::Sequential { .. } => {
            let name = format!("{name}{:010}", created_children(&parent_stat));
            parent
                .child(&name)
                .map_err(|error| Refusal::BadArguments(error.to_string()))?
        }
    };
    if view.stat(&path).is_some() {
        return Err(Refusal::NodeExists(path));
    }
    if !parent_stat.lifetime.allows_children() {
        return Err(Refusal::NoChildrenForEphemerals(parent));
    }
    expect_end_fits(view, lifetime).map_err(|message| Refusal::BoundReached {
        bound: EPHEMERAL_BYTES.into(),
        message,
    })?;
    create_node(view, &path, data.clone(), acl.clone(), lifetime);
    let stat = if with_stat { view.stat(&path) } else { None };
    Ok(ZnodeOutcome::Created { path, stat })
}

fn delete(
    view: &mut View,
    writer: Writer<'_>,
    path: &ZnodePath,
    version: i32,
) -> Result<ZnodeOutcome, Refusal> {
    let own = ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];
    let parent = path.parent().filter(|_| !own.contains(&path.as_str()));
    let Some(parent) = parent else {
        let message = format!("{path} cannot be deleted: it is the server's own");
        return Err(Refusal::BadArguments(message));
    };
    expect_open_below(view, &parent, path.name())?;
    view.stat_for(&parent, permission::DELETE, writer.proved)?;
    let stat = find(view, path)?;
    expect_version(path, version, stat.version)?;
    if stat.children > 0 {
        return Err(Refusal::NotEmpty(path.clone()));
    }
    if Records::mount(view, path).is_some() {
        return Err(Refusal::NoAuth(format!(
            "a recipe is mounted at {path}: `quorate unmount {path}` has to come first"
        )));
    }
    delete_node(view, path);
    Ok(ZnodeOutcome::Deleted)
}

fn set(
    view: &mut View,
    writer: Writer<'_>,
    path: &ZnodePath,
    data: &Bytes,
    version: i32,
) -> Result<ZnodeOutcome, Refusal> {
    expect_data_fits(data)?;
    expect_not_configuration(path)?;
    expect_open(view, path)?;
    let stat = view.stat_for(path, permission::WRITE, writer.proved)?;
    expect_version(path, version, stat.version)?;
    set_data(view, path, &stat, data.clone());
    find(view, path).map(ZnodeOutcome::Set)
}

/// Also of `/zookeeper/config`: its list says who may change the servers.
fn set_acl(
    view: &mut View,
    writer: Writer<'_>,
    path: &ZnodePath,
    acl: &Acl,
    version: i32,
) -> Result<ZnodeOutcome, Refusal> {
    if acl.0.is_empty() {
        return Err(Refusal::InvalidAcl);
    }
    expect_open(view, path)?;
    let stat = view.stat_for(path, permission::ADMIN, writer.proved)?;
    expect_version(path, version, stat.acl_version)?;
    let acl_version = next_version(stat.acl_version);
    view.change(Change::SetAcl {
        path: path.clone(),
        acl: acl.clone(),
        acl_version,
    });
    find(view, path).map(ZnodeOutcome::AclSet)
}

/// A znode that nothing stands in the way of comes to be, and its parent's stat changes.
pub(crate) fn create_node(
    view: &mut View,
    path: &ZnodePath,
    data: Bytes,
    acl: Acl,
    lifetime: Lifetime,
) {
    view.change(Change::CreateNode {
        path: path.clone(),
        data,
        acl,
        lifetime,
    });
    touch_parent(view, path);
}

/// A znode without children goes, and with it the containers that this leaves empty.
pub(crate) fn delete_node(view: &mut View, path: &ZnodePath) {
    view.change(Change::DeleteNode { path: path.clone() });
    touch_parent(view, path);
    let Some(parent) = path.parent() else { return };
    let left_empty = view
        .stat(&parent)
        .is_some_and(|stat| stat.lifetime == Lifetime::Container && stat.children == 0);
    if left_empty && Records::mount(view, &parent).is_none() {
        delete_node(view, &parent);
    }
}

/// A znode's data are replaced; `stat` is its stat as it is.
pub(crate) fn set_data(view: &mut View, path: &ZnodePath, stat: &Stat, data: Bytes) {
    view.change(Change::SetData {
        path: path.clone(),
        data,
        version: next_version(stat.version),
    });
}

fn touch_parent(view: &mut View, path: &ZnodePath) {
    let Some(parent) = path.parent() else { return };
    let Some(stat) = view.stat(&parent) else {
        return;
    };
    let children_version = stat.children_version.wrapping_add(1);
    view.change(Change::TouchParent {
        path: parent,
        children_version,
    });
}

/// How many children were ever created: the number of a sequential znode.
///
/// ZooKeeper counts creations, and shows creations and deletions together as cversion; so the
/// creations are half of that and of the children that are left.
fn created_children(stat: &Stat) -> u64 {
    (u64::from(stat.children_version as u32) + u64::from(stat.children)) / 2
}

/// Skips -1, which means "any version" in a request.
fn next_version(version: i32) -> i32 {
    match version.wrapping_add(1) {
        ANY_VERSION => 0,
        next => next,
    }
}

fn find(view: &View, path: &ZnodePath) -> Result<Stat, Refusal> {
    view.stat(path).ok_or_else(|| Refusal::NoNode(path.clone()))
}

fn expect_version(path: &ZnodePath, expected: i32, actual: i32) -> Result<(), Refusal> {
    if expected == ANY_VERSION || expected == actual {
        return Ok(());
    }
    Err(Refusal::BadVersion {
        path: path.clone(),
        expected,
        actual,
    })
}

fn expect_data_fits(data: &Bytes) -> Result<(), Refusal> {
    if data.len() > MAX_DATA_BYTES {
        let message = format!("{} bytes of data: at most {MAX_DATA_BYTES} fit", data.len());
        return Err(Refusal::BadArguments(message));
    }
    Ok(())
}

/// The end of a session is one transaction, however many znodes go with it, so their number is bounded
/// where it gets one more (rule S6).
pub(crate) fn expect_end_fits(view: &View, lifetime: Lifetime) -> Result<(), String> {
    let Lifetime::Session(id) = lifetime else {
        return Ok(());
    };
    let bytes = view
        .session(id)
        .map_or(0, |session| session.ephemeral_bytes);
    if bytes < MAX_EPHEMERAL_BYTES {
        return Ok(());
    }
    Err(format!(
        "the session's ephemeral znodes have {bytes} bytes of paths, twice counted, and {MAX_EPHEMERAL_BYTES} are the most"
    ))
}

/// Its data are what the ensemble says of itself: not even the super user sets them.
fn expect_not_configuration(path: &ZnodePath) -> Result<(), Refusal> {
    if *path == ZnodePath::configuration() {
        return Err(Refusal::NoAuth(format!(
            "{path} is the servers' own: it says who they are"
        )));
    }
    Ok(())
}

/// Below a sealed mount only the recipe writes; the mount's own data are the operator's.
fn expect_open(view: &View, path: &ZnodePath) -> Result<(), Refusal> {
    // Mounts do not nest: nothing above the parent of a mount is one.
    match path.parent() {
        Some(parent) => expect_open_below(view, &parent, path.name()),
        None => Ok(()),
    }
}

fn expect_open_below(view: &View, parent: &ZnodePath, name: &str) -> Result<(), Refusal> {
    match view.mount_above(parent) {
        Some(mount) if mount.sealed => Err(Refusal::NoAuth(format!(
            "{}/{name} is below {}, where recipe {} is mounted, sealed: call its operations instead",
            parent.as_str().trim_end_matches('/'),
            mount.path,
            mount.recipe
        ))),
        _ => Ok(()),
    }
}
