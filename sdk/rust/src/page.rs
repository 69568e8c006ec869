//! Answers that are read a page at a time: what a caller has stored may be more than one answer holds.
//!
//! ```
//! use quorate_recipe::prelude::*;
//!
//! recipe!(r#"
//!     package example:names;
//!     interface names {
//!         record name-page { names: list<string>, next: option<string> }
//!         /// All names, if they fit one answer.
//!         all: func() -> list<string>;
//!         /// The names behind `after`, `most` at most. `next` is the `after` of the next page, if there is one.
//!         all-after: func(after: option<string>, most: u32) -> name-page;
//!     }
//!     world recipe { export names; }
//! "#);
//!
//! fn all() -> Vec<String> {
//!     page::names("").all_or_refuse("all-after")
//! }
//!
//! fn all_after(after: Option<String>, most: u32) -> NamePage {
//!     let page = page::names_after("", after, most);
//!     NamePage { names: page.items, next: page.next }
//! }
//! # fn main() {}
//! ```

use crate::tree::{self, Child, Range};
use crate::{bound, call};

/// The most items of one page.
pub const MAX_ITEMS: usize = 5_000;

/// The most bytes of one page's items, as JSON: the result of a run has 1 MiB at most, and its fuel is for more than that.
pub const MAX_BYTES: usize = 512 << 10;

/// The most children that are looked at for one page, of which a filter may take few.
const MAX_LOOKED_AT: usize = 5_000;

/// Bytes of data after which no more are looked at.
const MAX_READ_BYTES: usize = 512 << 10;

/// Children in one question to the tree, and names: few enough that they are not much more than the page takes.
const AT_ONCE: u32 = 64;
const NAMES_AT_ONCE: u32 = 256;

/// Some of what there is.
pub struct Page<T> {
    /// In the byte order of the children's names.
    pub items: Vec<T>,
    /// The child behind which the next page begins; none if nothing is left.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// All that there is, or a refusal that names the operation which gives it in pages.
    pub fn all_or_refuse(self, pages: &str) -> Vec<T> {
        if self.next.is_some() {
            let found = self.items.len();
            bound::reached(
                "page-bytes",
                &format!("there is more than fits one answer, which has {found}: use {pages}"),
            );
        }
        self.items
    }
}

/// The children of `path` behind `after` as items, `most` at most. `item` makes one of a child, or leaves the child out,
/// and says what that takes of the page: the bytes that the item has as JSON (see [`json_bytes`]), or, of one that is left
/// out, about what it cost to look at. A page ends where the next item would make it too long. Refuses a page of nothing.
pub fn read_after<T>(
    path: &str,
    after: Option<String>,
    most: u32,
    item: impl FnMut(Child) -> (Option<T>, usize),
) -> Page<T> {
    let range = Range {
        after,
        ..Range::all()
    };
    read_range(path, range, most, item)
}

/// The same from the first child, as many as fit.
pub fn read<T>(path: &str, item: impl FnMut(Child) -> (Option<T>, usize)) -> Page<T> {
    read_range(path, Range::all(), u32::MAX, item)
}

/// The same of the children in `range`, the limit of which does not count.
pub fn read_range<T>(
    path: &str,
    mut range: Range,
    most: u32,
    mut item: impl FnMut(Child) -> (Option<T>, usize),
) -> Page<T> {
    if most == 0 {
        call::refuse("a page has at least one item");
    }
    let most = MAX_ITEMS.min(most as usize);
    let mut page = Page {
        items: Vec::new(),
        next: None,
    };
    let (mut bytes, mut looked_at, mut read) = (0, 0, 0);
    loop {
        range.limit = AT_ONCE.min((most - page.items.len()) as u32);
        let children = tree::entries(path, &range);
        let is_last = (children.len() as u32) < range.limit;
        for child in children {
            let name = child.name.clone();
            looked_at += 1;
            read += child.data.len();
            let (item, item_bytes) = item(child);
            bytes += item_bytes;
            // A single one always fits: what is stored has a bound.
            if bytes > MAX_BYTES && looked_at > 1 {
                page.next = range.after;
                return page;
            }
            page.items.extend(item);
            range.after = Some(name);
        }
        if is_last {
            return page;
        }
        if page.items.len() >= most || looked_at >= MAX_LOOKED_AT || read >= MAX_READ_BYTES {
            range.limit = 1;
            if !tree::children(path, &range).is_empty() {
                page.next = range.after;
            }
            return page;
        }
    }
}

/// The names of the children of `path`, as many as fit.
pub fn names(path: &str) -> Page<String> {
    names_after(path, None, u32::MAX)
}

/// The names of the children behind `after`, `most` at most. Refuses a page of nothing.
pub fn names_after(path: &str, after: Option<String>, most: u32) -> Page<String> {
    if most == 0 {
        call::refuse("a page has at least one item");
    }
    let most = MAX_ITEMS.min(most as usize);
    let mut range = Range {
        after,
        ..Range::all()
    };
    let mut page = Page {
        items: Vec::new(),
        next: None,
    };
    let mut bytes = 0;
    loop {
        // One more than fits says that there is one.
        range.limit = NAMES_AT_ONCE.min((most - page.items.len()) as u32 + 1);
        let names = tree::children(path, &range);
        let is_last = (names.len() as u32) < range.limit;
        for name in names {
            bytes += json_bytes(&name) + 1;
            if page.items.len() == most || bytes > MAX_BYTES {
                page.next = range.after;
                return page;
            }
            range.after = Some(name.clone());
            page.items.push(name);
        }
        if is_last {
            return page;
        }
    }
}

/// The bytes of a text in JSON, with its quotes.
pub fn json_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::json_bytes;

    #[test]
    fn json_bytes_counts_what_is_escaped() {
        assert_eq!(json_bytes(""), 2);
        assert_eq!(json_bytes("ä\n\"\u{1}"), 2 + 2 + 2 + 2 + 6);
    }
}
