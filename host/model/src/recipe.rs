//! Recipes and mounts, as the replicated state keeps them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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

/// An uploaded recipe: a name for a component, which is kept once by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What operators call it. Pushing another component under the same name moves the name.
    pub name: String,
    /// Of its component.
    pub digest: RecipeDigest,
    /// How large the component is, in bytes.
    pub size: u64,
    /// When it was pushed.
    pub pushed_at: Timestamp,
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
    /// The transaction that mounted it.
    pub mounted: Zxid,
    /// The number that `create-sequential` gives next. Never given twice.
    pub next_sequence: u64,
    /// Whether other clients may write below it.
    pub sealed: bool,
}
