//! Recipes: upload a component, keep it under a name, forget it.

use bytes::Bytes;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::{
    Exports, MAX_COMPONENT_BYTES, MAX_PIECE_BYTES, Mount, Recipe, RecipeDigest, RecipeVersion,
    Upload,
};
use quorate_model::write_set::Change;

use crate::apply::Records;
use crate::evaluate::Bounds;
use crate::state::Taken;
use crate::view::View;

/// The longest name of a recipe, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// How many components one name keeps. For one more the oldest that is not mounted goes.
const MAX_VERSIONS: usize = 10;

/// The most pieces that an upload may have: twice what it needs.
const MAX_PIECES: u32 = 2 * MAX_COMPONENT_BYTES.div_ceil(MAX_PIECE_BYTES) as u32;

/// A piece of a component, as a request has it.
pub(crate) struct PieceRequest<'a> {
    pub(crate) digest: RecipeDigest,
    pub(crate) bytes: u64,
    pub(crate) offset: u64,
    pub(crate) piece: &'a Bytes,
}

/// Takes the next piece of a component. Gives how many bytes are there: whoever is not at that place goes on from there.
pub(crate) fn upload(
    view: &mut View,
    bounds: &Bounds,
    request: &PieceRequest<'_>,
) -> Result<Outcome, Refusal> {
    let &PieceRequest {
        digest,
        bytes,
        offset,
        piece,
    } = request;
    if view.has_component(digest) {
        return Ok(Outcome::Uploaded { bytes });
    }
    let before = view.upload(&digest);
    let (received, pieces) = match &before {
        Some(before) if before.bytes != bytes => {
            return Err(Refusal::BadArguments(format!(
                "the component {digest} has {} bytes, not {bytes}",
                before.bytes
            )));
        }
        Some(before) => (before.received, before.pieces),
        None => (0, 0),
    };
    if offset != received {
        return Ok(Outcome::Uploaded { bytes: received });
    }
    let received = received + piece.len() as u64;
    let fits = (1..=MAX_PIECE_BYTES).contains(&piece.len())
        && (received..=MAX_COMPONENT_BYTES as u64).contains(&bytes)
        && pieces < MAX_PIECES;
    if !fits {
        return Err(Refusal::BadArguments(format!(
            "a component of {bytes} bytes, in pieces of {}: at most {MAX_COMPONENT_BYTES}, in \
             pieces of at most {MAX_PIECE_BYTES}, may be uploaded",
            piece.len()
        )));
    }
    if before.is_none() {
        expect_room(view, bounds, bytes)?;
    }
    let until = view.moment().time.plus(bounds.upload_patience_ms);
    view.change(Change::PutPiece {
        upload: Upload {
            digest,
            bytes,
            received,
            pieces: pieces + 1,
            until,
        },
        piece: piece.clone(),
    });
    Ok(Outcome::Uploaded { bytes: received })
}

/// Room for another upload, and for the component that comes of it (rule C2).
fn expect_room(view: &View, bounds: &Bounds, bytes: u64) -> Result<(), Refusal> {
    let uploads = view.uploads();
    let Taken { count, bytes: kept } = view.components();
    let seconds = bounds.upload_patience_ms / 1000;
    let wait = format!(
        "other components are being uploaded: try again, at the latest in {seconds} s, when those \
         that nobody goes on with are dropped"
    );
    let remove = "remove recipes that are not used, or unmount old versions".to_owned();
    let reached = [
        ("uploads", uploads.count >= bounds.uploads, wait.clone()),
        (
            "upload-bytes",
            uploads.bytes + bytes > bounds.upload_bytes,
            wait,
        ),
        (
            "components",
            uploads.count + count >= bounds.components,
            remove.clone(),
        ),
        (
            "component-bytes",
            uploads.bytes + kept + bytes > bounds.component_bytes,
            remove,
        ),
    ];
    match reached.into_iter().find(|(_, reached, _)| *reached) {
        Some((bound, _, message)) => Err(Refusal::BoundReached {
            bound: bound.to_owned(),
            message,
        }),
        None => Ok(()),
    }
}

/// What is to be kept under a name: a component that is there and has passed the check.
pub(crate) struct PushRequest<'a> {
    pub(crate) name: &'a str,
    pub(crate) digest: RecipeDigest,
    pub(crate) version: Option<&'a str>,
    pub(crate) exports: Exports,
}

/// Keeps a component under a name. What has the name already stays beside it, and mounted where it is.
pub(crate) fn push(
    view: &mut View,
    bounds: &Bounds,
    request: &PushRequest<'_>,
) -> Result<Outcome, Refusal> {
    let (name, digest) = (request.name, request.digest);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(allowed) {
        return Err(Refusal::BadArguments(format!(
            "{name:?} is no name for a recipe: letters, digits, - _ and . only, at most {MAX_NAME_BYTES}"
        )));
    }
    let before = view.recipe(name);
    if before.is_none() && view.recipes().len() as u64 >= bounds.recipes {
        return Err(Refusal::BoundReached {
            bound: "recipes".into(),
            message: "remove some that are not used".into(),
        });
    }
    let mut older = before.map_or_else(Vec::new, |before| {
        let others = before.versions().filter(|other| other.digest != digest);
        others.cloned().collect()
    });
    let forgotten = if older.len() < MAX_VERSIONS {
        None
    } else {
        let mounts = view.mounts();
        let unused = |version: &RecipeVersion| mounted(&mounts, name, version.digest).is_none();
        let last = older
            .iter()
            .rposition(unused)
            .ok_or_else(|| Refusal::BoundReached {
                bound: "versions".into(),
                message: format!(
                    "{MAX_VERSIONS} components of {name:?} are mounted: upgrade or unmount one first"
                ),
            })?;
        Some(older.remove(last).digest)
    };
    let size = match (view.component_bytes(digest), view.upload(&digest)) {
        (Some(bytes), _) => bytes,
        (None, Some(upload)) if upload.received == upload.bytes => {
            view.change(Change::KeepComponent { digest });
            upload.bytes
        }
        (None, _) => return Err(Refusal::NoComponent(digest)),
    };
    view.change(Change::PutRecipe(Recipe {
        name: name.to_owned(),
        current: RecipeVersion {
            digest,
            version: request.version.map(str::to_owned),
            exports: request.exports,
            size,
            pushed_at: view.moment().time,
        },
        older,
    }));
    if let Some(forgotten) = forgotten {
        forget_unused(view, forgotten);
    }
    Ok(Outcome::Pushed(digest))
}

/// Forgets a recipe, or one component of it, that is not mounted.
pub(crate) fn remove(
    view: &mut View,
    name: &str,
    digest: Option<RecipeDigest>,
) -> Result<Outcome, Refusal> {
    let recipe = view
        .recipe(name)
        .ok_or_else(|| Refusal::NoRecipe(name.to_owned()))?;
    let mounts = view.mounts();
    let (removed, mut kept): (Vec<RecipeVersion>, Vec<RecipeVersion>) = recipe
        .versions()
        .cloned()
        .partition(|version| digest.is_none_or(|digest| version.digest == digest));
    if let (Some(digest), true) = (digest, removed.is_empty()) {
        return Err(no_version(name, digest));
    }
    let in_use = removed
        .iter()
        .find_map(|version| mounted(&mounts, name, version.digest));
    if let Some(mount) = in_use {
        return Err(Refusal::RecipeInUse {
            name: name.to_owned(),
            mount: mount.path.clone(),
        });
    }
    view.change(match kept.is_empty() {
        true => Change::RemoveRecipe {
            name: name.to_owned(),
        },
        false => Change::PutRecipe(Recipe {
            name: name.to_owned(),
            current: kept.remove(0),
            older: kept,
        }),
    });
    for version in removed {
        forget_unused(view, version.digest);
    }
    Ok(Outcome::Removed)
}

/// The name is there, and has no component with this digest.
pub(crate) fn no_version(name: &str, digest: RecipeDigest) -> Refusal {
    Refusal::BadArguments(format!(
        "recipe {name:?} has no component {}: `quorate recipe show {name}` lists those that it has",
        digest.short()
    ))
}

fn mounted<'a>(mounts: &'a [Mount], name: &str, digest: RecipeDigest) -> Option<&'a Mount> {
    mounts.iter().find(|mount| {
        mount.recipe == name && mount.digest == digest || mount.shadow == Some(digest)
    })
}

/// A component goes with the last name and mount that has it.
pub(crate) fn forget_unused(view: &mut View, digest: RecipeDigest) {
    let named = |recipe: &Recipe| recipe.version(Some(digest)).is_some();
    let used = view.recipes().iter().any(named)
        || view
            .mounts()
            .iter()
            .any(|mount| mount.components().any(|one| one == digest));
    if !used && view.has_component(digest) {
        view.change(Change::RemoveComponent { digest });
    }
}
