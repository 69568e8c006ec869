//! Queues by name, with priorities, delays and claims.
//!
//! An item is a persistent znode, named by its priority and number. One that is claimed stays where it is and
//! has a mark beside it that goes with the claimer's session: so a crash loses nothing, and gives the item its
//! old place back. Who waits stands in a line, of which only the first looks at the items.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:queue@0.1.0;

    /// Queues by name. Each item is given to one consumer, in the order of priorities, and of arrival
    /// within one; consumers that wait are served first come first served. Items stay until they are
    /// taken, whatever becomes of who offered them.
    ///
    /// What was taken by `take` or `poll` is the consumer's alone: if it crashes then, the item is gone.
    /// What was taken by `claim` returns to its place when the claimer's session ends without `confirm`;
    /// so it can be worked on twice, but is never lost.
    interface queue {
        /// Something in the queue.
        record item {
            /// Which: `confirm` and `give-back` take it.
            id: string,
            /// What was offered.
            content: string,
        }

        /// How much there is.
        record sizes {
            /// Items in all: ready, delayed and claimed.
            items: u32,
            /// Of them, those whose delay has not passed.
            delayed: u32,
            /// Of them, those that are claimed.
            claimed: u32,
            /// Consumers that wait.
            waiting: u32,
        }

        /// Puts an item, of 128 KiB at most (`item-bytes`), behind all others of priority 100; gives its id.
        /// A queue has a million items at most (`items`), of which 1,000 may be claimed (`claims`).
        offer: func(name: string, content: string) -> string;

        /// The same with a priority, of which 0 goes first and 255 last, and hidden for so long.
        offer-with: func(name: string, content: string, priority: u8, delay-ms: u64) -> string;

        /// Removes the first item and gives it; none if there is none, or others wait for it.
        poll: func(name: string) -> option<item>;

        /// Waits its turn, then removes the first item and gives it.
        take: func(name: string) -> item;

        /// Waits its turn, then gives the first item and hides it from others until it is confirmed, given
        /// back, or this session ends.
        claim: func(name: string) -> item;

        /// The same if that needs no waiting, else none.
        try-claim: func(name: string) -> option<item>;

        /// Removes an item that this session has claimed: it is done. Refused if the claim is not there
        /// any more, as the item may be another's then.
        confirm: func(name: string, id: string);

        /// Lets others have an item that this session has claimed, in its old place. Refused likewise.
        give-back: func(name: string, id: string);

        /// How much there is.
        size: func(name: string) -> sizes;
    }

    world recipe {
        export queue;
    }
"#
);

/// Items of one queue: a queue that grows beyond that has no consumers that could ever catch up.
const MAX_ITEMS: u32 = 1_000_000;

/// Claims of one queue at a time: whoever looks for the first item looks past them.
const MAX_CLAIMS: usize = 1000;

/// An item: with whatever has to be escaped in it, it fits an answer.
const MAX_ITEM_BYTES: usize = 128 << 10;

/// Delayed items that one run moves to the others, and bytes after which it stops: what is left is moved by
/// the next.
const RIPEN_AT_ONCE: u32 = 100;
const RIPEN_BYTES: usize = 256 << 10;

const DEFAULT_PRIORITY: u8 = 100;

fn offer(name: String, content: String) -> String {
    offer_with(name, content, DEFAULT_PRIORITY, 0)
}

fn offer_with(name: String, content: String, priority: u8, delay_ms: u64) -> String {
    let queue = Queue::of(&name);
    bound::require_bytes("item-bytes", &content, MAX_ITEM_BYTES);
    if children(&queue.items) + children(&queue.delayed) >= MAX_ITEMS {
        bound::reached("items", &format!("the queue {name:?} has {MAX_ITEMS}"));
    }
    let prefix = format!("{priority:03}-");
    if delay_ms == 0 {
        return tree::create_sequential(&queue.items, &prefix, content, Lifetime::Persistent);
    }
    let due = moment(call::now().saturating_add(delay_ms));
    let prefix = format!("{due}{prefix}");
    let created = tree::create_sequential(&queue.delayed, &prefix, content, Lifetime::Persistent);
    created[due.len()..].to_owned()
}

fn poll(name: String) -> Option<Item> {
    let queue = Queue::of(&name);
    let item = queue.first_at_once()?;
    tree::delete(&path!(queue.items, item.id));
    Some(item)
}

fn take(name: String) -> Item {
    let queue = Queue::of(&name);
    let item = queue.wait_for_first();
    tree::delete(&path!(queue.items, item.id));
    item
}

fn claim(name: String) -> Item {
    let queue = Queue::of(&name);
    let item = queue.wait_for_first();
    queue.mark(&item);
    item
}

fn try_claim(name: String) -> Option<Item> {
    let queue = Queue::of(&name);
    let item = queue.first_at_once()?;
    queue.mark(&item);
    Some(item)
}

fn confirm(name: String, id: String) {
    let queue = Queue::of(&name);
    queue.unmark(&id);
    tree::delete(&path!(queue.items, id));
}

fn give_back(name: String, id: String) {
    Queue::of(&name).unmark(&id);
}

fn size(name: String) -> Sizes {
    let queue = Queue::of(&name);
    let delayed = children(&queue.delayed);
    Sizes {
        items: children(&queue.items) + delayed,
        delayed,
        claimed: children(&queue.claims),
        waiting: children(&queue.consumers),
    }
}

/// The paths of a queue's parts.
struct Queue {
    /// `<priority>-<number>`, which is the item's id.
    items: String,
    /// `<moment><id>`.
    delayed: String,
    /// `<id>`, for a session.
    claims: String,
    /// The line.
    consumers: String,
}

impl Queue {
    fn of(name: &str) -> Queue {
        require_name(name);
        Queue {
            items: path!(name, "items"),
            delayed: path!(name, "delayed"),
            claims: path!(name, "claims"),
            consumers: path!(name, "consumers"),
        }
    }

    /// The first item, if nobody waits for it.
    fn first_at_once(&self) -> Option<Item> {
        if children(&self.consumers) > 0 {
            return None;
        }
        self.first()
    }

    /// Parks until there is an item and nobody stands ahead.
    fn wait_for_first(&self) -> Item {
        if call::memo_bytes().is_none()
            && let Some(item) = self.first_at_once()
        {
            return item;
        }
        let place = line::stand_in(&self.consumers, "");
        if let Some(item) = self.first() {
            tree::delete(&place.path);
            return item;
        }
        watch::children(&self.items);
        watch::children(&self.claims);
        watch::children(&self.delayed);
        if let Some(next) = tree::children(&self.delayed, &Range::first(1)).pop() {
            watch::time(
                next[..MOMENT_DIGITS]
                    .parse()
                    .expect("it begins with a moment"),
            );
        }
        call::park(place.ticket);
    }

    /// The first item that is not claimed.
    fn first(&self) -> Option<Item> {
        self.ripen();
        let claimed = tree::children(&self.claims, &Range::all());
        let names = tree::children(&self.items, &Range::first(claimed.len() as u32 + 1));
        // Both are in byte order.
        let id = names
            .into_iter()
            .find(|name| claimed.binary_search(name).is_err())?;
        let node = tree::get(&path!(self.items, id))?;
        Some(Item {
            content: node.text().to_owned(),
            id,
        })
    }

    /// Moves the items whose delay has passed to the others.
    fn ripen(&self) {
        let due = Range {
            before: Some(moment(call::now().saturating_add(1))),
            ..Range::first(RIPEN_AT_ONCE)
        };
        let mut bytes = 0;
        // One by one: all of them may be more than a run can read.
        for name in tree::children(&self.delayed, &due) {
            let id = &name[MOMENT_DIGITS..];
            let path = path!(self.delayed, name);
            let Some(item) = tree::get(&path) else {
                continue;
            };
            tree::create(&path!(self.items, id), &item.data, Lifetime::Persistent);
            tree::delete(&path);
            bytes += item.data.len();
            if bytes > RIPEN_BYTES {
                return;
            }
        }
    }

    fn mark(&self, item: &Item) {
        if children(&self.claims) as usize >= MAX_CLAIMS {
            bound::reached(
                "claims",
                &format!("{MAX_CLAIMS} items are claimed: confirm some first"),
            );
        }
        tree::create(&path!(self.claims, item.id), "", mine());
    }

    fn unmark(&self, id: &str) {
        require_name(id);
        let path = path!(self.claims, id);
        if !tree::exists(&path).is_some_and(|stat| stat.is_mine()) {
            refuse!("this session has no claim of the item {id:?}");
        }
        tree::delete(&path);
    }
}

fn children(path: &str) -> u32 {
    tree::exists(path).map_or(0, |stat| stat.children)
}

/// Digits of a moment in a name: milliseconds for three hundred thousand years.
const MOMENT_DIGITS: usize = 16;

/// A moment as it stands in a name.
fn moment(at: u64) -> String {
    format!("{:0MOMENT_DIGITS$}", at.min(9_999_999_999_999_999))
}
