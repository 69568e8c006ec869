//! Recipes and mounts, as the replicated state keeps them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::acl::Identity;
use crate::bound::{Bound, MountBounds};
use crate::id::{Timestamp, Zxid};
use crate::path::ZnodePath;

/// The SHA-256 of a component: what a recipe is known by for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecipeDigest(pub [u8; 32]);

impl RecipeDigest {
    /// Of these bytes.
    pub fn of(component: &[u8]) -> RecipeDigest {
        RecipeDigest(Sha256::digest(component).into())
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for RecipeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecipeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecipeDigest {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<RecipeDigest, &'static str> {
        const WRONG: &str = "a digest is 64 hexadecimal digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(WRONG);
        }
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(RecipeDigest(digest))
    }
}

/// What a component exports beside its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exports {
    /// `quorate:recipe/guard`: it is asked about other clients' writes below its mount (rule C7).
    pub guard: bool,
    /// `quorate:recipe/standing`: it runs without being called (rule C10).
    pub standing: bool,
}

/// One component of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeVersion {
    /// Of the component.
    pub digest: RecipeDigest,
    /// The version of its WIT package, if that has one.
    pub version: Option<String>,
    /// What it exports beside its operations.
    pub exports: Exports,
    /// How large the component is, in bytes.
    pub size: u64,
    /// When it was pushed under this name, last.
    pub pushed_at: Timestamp,
}

/// An uploaded recipe: a name for components, each of which is kept once by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What operators call it. Pushing another component under the same name moves the name.
    pub name: String,
    /// What the name stands for: the last pushed.
    pub current: RecipeVersion,
    /// What was pushed before and is kept for mounts and roll-backs, the last first.
    pub older: Vec<RecipeVersion>,
}

impl Recipe {
    /// All components of this name, the current first.
    pub fn versions(&self) -> impl Iterator<Item = &RecipeVersion> {
        std::iter::once(&self.current).chain(&self.older)
    }

    /// The component with this digest; the current one for none.
    pub fn version(&self, digest: Option<RecipeDigest>) -> Option<&RecipeVersion> {
        match digest {
            None => Some(&self.current),
            Some(digest) => self.versions().find(|version| version.digest == digest),
        }
    }
}

/// A recipe bound to a znode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The znode. Mounts do not nest.
    pub path: ZnodePath,
    /// The recipe's name when it was mounted.
    pub recipe: String,
    /// Which component runs.
    pub digest: RecipeDigest,
    /// What that exports beside its operations.
    pub exports: Exports,
    /// The transaction that mounted it. An upgrade leaves it.
    pub mounted: Zxid,
    /// The number that `create-sequential` gives next. Never given twice.
    pub next_sequence: u64,
    /// Whether other clients may write below it.
    pub sealed: bool,
    /// Where its bounds differ from the defaults.
    pub bounds: MountBounds,
    /// Who may call: at least one. `world:anyone` is everybody.
    pub callers: Arc<Vec<Identity>>,
    /// How many runs in a row have failed, by a trap or a bound.
    pub failures: u32,
    /// Why nothing runs here until an operator resumes it (rule C4).
    pub suspended: Option<String>,
}

/// What is to change of how a recipe is mounted; the rest stays, or is as it is by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSettings {
    /// The znode's data: the recipe's parameters.
    pub parameters: Option<Bytes>,
    /// Whether other clients may write below it; only the recipe may by default.
    pub sealed: Option<bool>,
    /// Bounds; none for the default.
    pub bounds: Vec<(Bound, Option<u64>)>,
    /// Who may call; everybody by default.
    pub callers: Option<Vec<Identity>>,
}
