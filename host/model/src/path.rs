//! Paths of znodes, parsed once.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The longest path, in bytes. ZooKeeper has no bound of its own but its packet; ours keeps keys small.
pub const MAX_PATH_BYTES: usize = 4096;

/// An absolute path that ZooKeeper would accept: `/`, or `/a/b` without a trailing slash.
///
/// The rules are those of ZooKeeper's `PathUtils.validatePath`, which its server applies too: no empty,
/// `.` or `..` name, no control character, no character of U+D800–U+F8FF or U+FFF0–U+FFFF. The characters
/// beyond U+FFFF are pairs of the former in Java, so none of them either. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZnodePath(Arc<str>);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid path {path:?}: {reason}")]
pub struct PathError {
    /// What was given, cut after 100 characters.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl PathError {
    fn new(path: &str, reason: &'static str) -> PathError {
        PathError {
            path: path.chars().take(100).collect(),
            reason,
        }
    }
}

impl ZnodePath {
    /// `/zookeeper/config`, which says who the servers are (rule W6).
    pub fn configuration() -> ZnodePath {
        ZnodePath(Arc::from("/zookeeper/config"))
    }

    /// The root.
    pub fn root() -> ZnodePath {
        ZnodePath(Arc::from("/"))
    }

    /// Checks `text` and takes it.
    pub fn parse(text: &str) -> Result<ZnodePath, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::new(text, "it must start with /"));
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::new(text, "it is longer than 4096 bytes"));
        }
        if text != "/" {
            for name in text[1..].split('/') {
                check_name(name).map_err(|reason| PathError::new(text, reason))?;
            }
        }
        Ok(ZnodePath(Arc::from(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `/`.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The path without its last name; none for the root.
    pub fn parent(&self) -> Option<ZnodePath> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(0) | None => Some(ZnodePath::root()),
            Some(at) => Some(ZnodePath(Arc::from(&self.0[..at]))),
        }
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rfind('/').map_or("", |at| &self.0[at + 1..])
    }

    /// The names from the root down; none for the root.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The child called `name`.
    pub fn child(&self, name: &str) -> Result<ZnodePath, PathError> {
        check_name(name).map_err(|reason| PathError::new(name, reason))?;
        if self.0.len() + 1 + name.len() > MAX_PATH_BYTES {
            return Err(PathError::new(
                name,
                "the path would be longer than 4096 bytes",
            ));
        }
        Ok(ZnodePath(Arc::from(join(self.as_str(), name))))
    }

    /// What `relative` means below this path: a recipe's path below its mount.
    pub fn below(&self, relative: &RelativePath) -> Result<ZnodePath, PathError> {
        if relative.as_str().is_empty() {
            return Ok(self.clone());
        }
        if self.0.len() + 1 + relative.as_str().len() > MAX_PATH_BYTES {
            return Err(PathError::new(
                relative.as_str(),
                "below its mount it would be longer than 4096 bytes",
            ));
        }
        Ok(ZnodePath(Arc::from(join(self.as_str(), relative.as_str()))))
    }

    /// Whether `other` is this path or below it.
    pub fn contains(&self, other: &ZnodePath) -> bool {
        self.is_root()
            || other
                .0
                .strip_prefix(&*self.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// This path, its parent, and so on up to the root.
    pub fn upwards(&self) -> impl Iterator<Item = ZnodePath> {
        std::iter::successors(Some(self.clone()), ZnodePath::parent)
    }
}

fn join(parent: &str, rest: &str) -> String {
    if parent == "/" {
        format!("/{rest}")
    } else {
        format!("{parent}/{rest}")
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => return Err("it has an empty name (two slashes, or one at the end)"),
        "." | ".." => return Err("relative names are not allowed"),
        _ => {}
    }
    let forbidden = |c: char| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'.. | '/');
    if name.chars().any(forbidden) {
        return Err(
            "it has a character that is not allowed (a control character, / in a name, or one \
             beyond U+FFEF such as an emoji)",
        );
    }
    Ok(())
}

/// A path below a mount: `""` is the mount itself, `a/b` a descendant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RelativePath(String);

impl RelativePath {
    /// Checks `text` and takes it.
    pub fn parse(text: &str) -> Result<RelativePath, PathError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::new(text, "it is longer than 4096 bytes"));
        }
        if text.starts_with('/') {
            return Err(PathError::new(
                text,
                "a recipe's paths are relative to its mount: no leading /",
            ));
        }
        if !text.is_empty() {
            for name in text.split('/') {
                check_name(name).map_err(|reason| PathError::new(text, reason))?;
            }
        }
        Ok(RelativePath(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RelativePath {
    type Error = PathError;
    fn try_from(text: String) -> Result<RelativePath, PathError> {
        RelativePath::parse(&text)
    }
}

impl fmt::Display for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for ZnodePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for ZnodePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ZnodePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ZnodePath, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        ZnodePath::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_zookeeper_accepts() {
        for good in ["/", "/a", "/a/b", "/a b/ü", "/a/b/.c", "/..."] {
            assert!(ZnodePath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "/a/",
            "//a",
            "/a//b",
            "/./a",
            "/a/..",
            "/a\0",
            "/a\u{7f}",
            "/\u{e000}",
            "/\u{fff0}",
            "/😀",
        ] {
            assert!(ZnodePath::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn knows_its_parent_and_name() {
        let path = ZnodePath::parse("/a/b").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "/a");
        assert_eq!(path.name(), "b");
        assert_eq!(path.parent().unwrap().parent().unwrap(), ZnodePath::root());
        assert_eq!(ZnodePath::root().parent(), None);
        assert_eq!(ZnodePath::root().name(), "");
        assert_eq!(path.upwards().count(), 3);
    }

    #[test]
    fn containment_goes_by_names() {
        let path = |text| ZnodePath::parse(text).unwrap();
        assert!(path("/a").contains(&path("/a")));
        assert!(path("/a").contains(&path("/a/b")));
        assert!(!path("/a").contains(&path("/ab")));
        assert!(path("/").contains(&path("/ab")));
    }

    #[test]
    fn a_recipe_cannot_escape_its_mount() {
        for bad in ["/a", "../a", "a/..", "a//b", "a/", "."] {
            assert!(RelativePath::parse(bad).is_err(), "{bad}");
        }
        let mount = ZnodePath::parse("/locks").unwrap();
        let below = |text| mount.below(&RelativePath::parse(text).unwrap()).unwrap();
        assert_eq!(below("").as_str(), "/locks");
        assert_eq!(below("a/b").as_str(), "/locks/a/b");
    }
}
