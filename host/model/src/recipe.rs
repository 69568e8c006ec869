//! Recipes and mounts, as the replicated state keeps them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::acl::Identity;
use crate::bound::{Bound, MountBounds};
use crate::id::{CallId, Timestamp, Zxid};
use crate::path::ZnodePath;

/// The SHA-256 of a component: what a recipe is known by for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipeDigest(pub [u8; 32]);

impl Serialize for RecipeDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RecipeDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RecipeDigest, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(RecipeDigest);
        }
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

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

/// The largest component, in bytes: interpreted languages make some of 20 MB.
pub const MAX_COMPONENT_BYTES: usize = 32 << 20;

/// The largest piece that a component is uploaded in, in bytes: small enough that other requests' entries are not
/// held up behind its own.
pub const MAX_PIECE_BYTES: usize = 256 << 10;

/// A component's bytes. They stay in the pieces that they came in: nobody who holds a lock ever copies all of them.
/// Cloning is cheap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Component {
    pieces: Arc<[Bytes]>,
    bytes: u64,
}

impl Component {
    /// Of these pieces, in order.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Component {
        let pieces: Arc<[Bytes]> = pieces.into_iter().collect();
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Component { pieces, bytes }
    }

    /// The same bytes, cut into pieces of the largest size, without copying them.
    pub fn cut(bytes: &Bytes) -> Component {
        let pieces = (0..bytes.len())
            .step_by(MAX_PIECE_BYTES)
            .map(|from| bytes.slice(from..bytes.len().min(from + MAX_PIECE_BYTES)));
        Component::new(pieces)
    }

    /// In order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What stands from `offset` to the end of a piece; none at the end.
    pub fn piece_at(&self, offset: u64) -> Option<Bytes> {
        let mut before = 0;
        for piece in self.pieces.iter() {
            let behind = before + piece.len() as u64;
            if offset < behind {
                return Some(piece.slice((offset - before) as usize..));
            }
            before = behind;
        }
        None
    }

    /// All of it in one piece, for which it may have to be copied.
    pub fn joined(&self) -> Bytes {
        match &*self.pieces {
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// What it is known by.
    pub fn digest(&self) -> RecipeDigest {
        let mut hasher = Sha256::new();
        self.pieces.iter().for_each(|piece| hasher.update(piece));
        RecipeDigest(hasher.finalize().into())
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Component({} bytes)", self.bytes)
    }
}

/// A component that is being uploaded, piece by piece, and that no name has yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Of the whole component.
    pub digest: RecipeDigest,
    /// How many bytes the whole component has.
    pub bytes: u64,
    /// How many of them have come.
    pub received: u64,
    /// In how many pieces.
    pub pieces: u32,
    /// When it is dropped, unless another piece comes before.
    pub until: Timestamp,
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
    /// Which component runs beside it, on the same calls, only to be compared.
    pub shadow: Option<RecipeDigest>,
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
    /// The last upgrade that calls were parked at; some of them may be still to follow it.
    pub upgrade: Option<Upgrade>,
    /// It is being unmounted, in steps: how many parked calls that has ended so far. Nothing runs here any more (rule S6).
    pub unmounting: Option<u64>,
}

/// Another component has been mounted, and the calls that were parked follow it, in steps (rule S6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// The transaction that swapped the component: the calls that were parked before it follow.
    pub swapped: Zxid,
    /// The calls up to this one have followed, in the order of their age; none once all have.
    pub behind: Option<(Zxid, CallId)>,
    /// How many have: they have run on the new component, are marked to, or have ended since they do not fit it.
    pub followed_calls: u64,
    /// How many of those have ended since they do not fit it.
    pub ended_calls: u64,
}

impl Upgrade {
    /// Whether a call of this age is still to follow.
    pub fn awaits(&self, age: Zxid, call: CallId) -> bool {
        age < self.swapped && self.behind.is_some_and(|behind| behind < (age, call))
    }
}

impl Mount {
    /// The components that run here: the mounted one first.
    pub fn components(&self) -> impl Iterator<Item = RecipeDigest> {
        std::iter::once(self.digest).chain(self.shadow)
    }
}

/// What runs beside a mounted component, only to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// The recipe's name.
    pub recipe: String,
    /// Which of its components; none for the one that has the name now.
    pub digest: Option<RecipeDigest>,
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
    /// Which recipe, or which component of it, runs beside it to be compared; `Some(None)` for none any more.
    pub shadow: Option<Option<Shadow>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_in_pieces_is_the_same_component() {
        let bytes = Bytes::from(
            (0..2 * MAX_PIECE_BYTES + 5)
                .map(|at| (at % 251) as u8)
                .collect::<Vec<_>>(),
        );
        let component = Component::cut(&bytes);
        assert_eq!(component.pieces().len(), 3);
        assert_eq!(component.bytes(), bytes.len() as u64);
        assert_eq!(component.joined(), bytes);
        assert_eq!(component.digest(), RecipeDigest::of(&bytes));
        let from = MAX_PIECE_BYTES + 3;
        let rest = component.piece_at(from as u64);
        assert_eq!(rest, Some(bytes.slice(from..2 * MAX_PIECE_BYTES)));
        assert_eq!(component.piece_at(bytes.len() as u64), None);
        assert_eq!(Component::cut(&Bytes::new()).joined(), Bytes::new());
    }
}
