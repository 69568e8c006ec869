//! The tree below the mount: `""` is the mount itself, `"a/b"` a descendant.
//!
//! A run reads its own writes, and what it has read stays true until it ends. What a change is refused
//! for ends the run by a panic, which undoes the run; the forms that begin with `try_` give the error.

use std::fmt::Display;
use std::str::FromStr;

use crate::bindings::quorate::recipe::tree as abi;
use crate::call;

pub use crate::bindings::quorate::recipe::tree::{Child, Range};
pub use crate::bindings::quorate::recipe::types::{Error, Lifetime, Node, Stat};

/// The lifetime of what goes with the caller's session.
pub fn mine() -> Lifetime {
    Lifetime::Session(call::session())
}

/// The longest name that a caller may give, in bytes: with what a recipe adds, a path has 4096 at most.
const MAX_NAME_BYTES: usize = 1024;

/// Refuses a name that is no single child: what a recipe keeps below one name must not be what it keeps below another.
/// ZooKeeper's rules for names hold; whoever gives another is refused, which is no failure of the recipe.
pub fn require_name(name: &str) {
    let forbidden = |c: char| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..);
    let reason = if name.is_empty() || name.contains('/') {
        "it is empty or has a /"
    } else if matches!(name, "." | "..") {
        "relative names are not allowed"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 1024 bytes"
    } else if name.chars().any(forbidden) {
        "it has a control character, or one beyond U+FFEF such as an emoji"
    } else {
        return;
    };
    let shown: String = name.chars().take(100).collect();
    call::refuse(&format!("{shown:?} is no name: {reason}"));
}

/// A znode's data and stat; none if there is no such znode.
pub fn get(path: &str) -> Option<Node> {
    abi::get(path)
}

/// The same without the data.
pub fn exists(path: &str) -> Option<Stat> {
    abi::exists(path)
}

/// The names of some children, in byte order; none if there is no such znode. See [`Range`]'s
/// [`all`](Range::all), [`first`](Range::first) and [`before`](Range::before).
pub fn children(path: &str, range: &Range) -> Vec<String> {
    abi::children(path, range)
}

/// The same with data and stat, in one crossing.
pub fn entries(path: &str, range: &Range) -> Vec<Child> {
    abi::entries(path, range)
}

/// The first child.
pub fn first(path: &str) -> Option<Child> {
    entries(path, &Range::first(1)).pop()
}

/// The name of the child that stands right ahead of `name`, which need not exist.
pub fn child_before(path: &str, name: &str) -> Option<String> {
    children(path, &Range::before(name, 1)).pop()
}

/// Creates a znode, and missing parents as containers.
#[track_caller]
pub fn create(path: &str, data: impl AsRef<[u8]>, lifetime: Lifetime) {
    must(try_create(path, data, lifetime), "create", path)
}

/// Creates a znode, and missing parents as containers.
pub fn try_create(path: &str, data: impl AsRef<[u8]>, lifetime: Lifetime) -> Result<(), Error> {
    abi::create(path, data.as_ref(), lifetime)
}

/// Creates a child called `prefix` and the mount's next number, sixteen digits; gives its name.
#[track_caller]
pub fn create_sequential(
    parent: &str,
    prefix: &str,
    data: impl AsRef<[u8]>,
    lifetime: Lifetime,
) -> String {
    let created = try_create_sequential(parent, prefix, data, lifetime);
    must(created, "create a child of", parent)
}

/// Creates a child called `prefix` and the mount's next number, sixteen digits; gives its name.
pub fn try_create_sequential(
    parent: &str,
    prefix: &str,
    data: impl AsRef<[u8]>,
    lifetime: Lifetime,
) -> Result<String, Error> {
    abi::create_sequential(parent, prefix, data.as_ref(), lifetime)
}

/// Replaces the data.
#[track_caller]
pub fn set(path: &str, data: impl AsRef<[u8]>) {
    must(try_set(path, data), "set", path)
}

/// Replaces the data.
pub fn try_set(path: &str, data: impl AsRef<[u8]>) -> Result<(), Error> {
    abi::set(path, data.as_ref())
}

/// Sets the data, and creates the znode, persistent, if it is not there.
#[track_caller]
pub fn put(path: &str, data: impl AsRef<[u8]>) {
    match try_set(path, &data) {
        Err(Error::NoNode) => create(path, data, Lifetime::Persistent),
        other => must(other, "set", path),
    }
}

/// Renews a lease, or hands a znode to another session. Wakes nobody.
#[track_caller]
pub fn set_lifetime(path: &str, lifetime: Lifetime) {
    must(
        try_set_lifetime(path, lifetime),
        "set the lifetime of",
        path,
    )
}

/// Renews a lease, or hands a znode to another session. Wakes nobody.
pub fn try_set_lifetime(path: &str, lifetime: Lifetime) -> Result<(), Error> {
    abi::set_lifetime(path, lifetime)
}

/// Deletes a znode without children, and containers that this leaves empty.
#[track_caller]
pub fn delete(path: &str) {
    must(try_delete(path), "delete", path)
}

/// Deletes a znode without children, and containers that this leaves empty.
pub fn try_delete(path: &str) -> Result<(), Error> {
    abi::delete(path)
}

/// Not `expect`: the message names the change and the path, and the place is the author's.
#[track_caller]
fn must<T>(result: Result<T, Error>, change: &str, path: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("cannot {change} {path:?}: {}", error.name()),
    }
}

impl Range {
    /// All children.
    pub fn all() -> Range {
        Range::first(u32::MAX)
    }

    /// The first `limit` children.
    pub fn first(limit: u32) -> Range {
        Range {
            after: None,
            before: None,
            descending: false,
            limit,
        }
    }

    /// The last `limit` children, the last first.
    pub fn last(limit: u32) -> Range {
        Range {
            descending: true,
            ..Range::first(limit)
        }
    }

    /// The `limit` children right behind `name`, the nearest first.
    pub fn after(name: &str, limit: u32) -> Range {
        Range {
            after: Some(name.into()),
            ..Range::first(limit)
        }
    }

    /// The `limit` children right ahead of `name`, the nearest first.
    pub fn before(name: &str, limit: u32) -> Range {
        Range {
            before: Some(name.into()),
            ..Range::last(limit)
        }
    }
}

impl Stat {
    /// Whether it goes with the caller's session.
    pub fn is_mine(&self) -> bool {
        self.owner().is_some_and(|owner| owner == call::session())
    }

    /// The session that it goes with.
    pub fn owner(&self) -> Option<u64> {
        match self.lifetime {
            Lifetime::Session(session) => Some(session),
            _ => None,
        }
    }
}

impl Node {
    /// Its data as text.
    ///
    /// # Panics
    ///
    /// If they are not.
    #[track_caller]
    pub fn text(&self) -> &str {
        text(&self.data)
    }

    /// Its data, written as text.
    ///
    /// # Panics
    ///
    /// If they are not such a text.
    #[track_caller]
    pub fn parse<T: FromStr<Err: Display>>(&self) -> T {
        parse(&self.data)
    }

    /// Whether it goes with the caller's session.
    pub fn is_mine(&self) -> bool {
        self.stat.is_mine()
    }
}

impl Child {
    /// Its data as text.
    ///
    /// # Panics
    ///
    /// If they are not.
    #[track_caller]
    pub fn text(&self) -> &str {
        text(&self.data)
    }

    /// Its data, written as text.
    ///
    /// # Panics
    ///
    /// If they are not such a text.
    #[track_caller]
    pub fn parse<T: FromStr<Err: Display>>(&self) -> T {
        parse(&self.data)
    }

    /// Whether it goes with the caller's session.
    pub fn is_mine(&self) -> bool {
        self.stat.is_mine()
    }
}

#[track_caller]
fn text(data: &[u8]) -> &str {
    match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => panic!("the data are no text: {error}"),
    }
}

#[track_caller]
fn parse<T: FromStr<Err: Display>>(data: &[u8]) -> T {
    let text = text(data);
    match text.parse() {
        Ok(value) => value,
        Err(error) => panic!("the data {text:?} do not fit: {error}"),
    }
}
