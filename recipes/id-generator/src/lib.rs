//! Numbers by name that are never given twice.
//!
//! A sequence is a persistent znode whose data are the next number. Slots are znodes that go with a session.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:id-generator@0.1.0;

    /// Numbers by name. A sequence stays for ever, and no number of it is given twice, whatever fails: a
    /// caller that crashes leaves a gap. A slot is a small number that one session has at a time.
    interface id-generator {
        /// Some numbers in a row.
        record block {
            /// The first.
            first: u64,
            /// How many.
            count: u32,
        }

        /// The next number of a sequence, from 1.
        next: func(name: string) -> u64;

        /// The next so many numbers, for a caller that gives them out by itself.
        reserve: func(name: string, count: u32) -> block;

        /// Raises the next number to this one; says whether it was lower.
        skip-to: func(name: string, next: u64) -> bool;

        /// A number below `limit`, ten thousand at most (`slots`), that no other session has: the smallest that is
        /// free, from 0, until the session ends or gives it back. Made for numbers of workers. None if
        /// all are taken. A session that has one gets that.
        claim-slot: func(name: string, limit: u32) -> option<u32>;

        /// Gives a slot back; says whether this session had one.
        release-slot: func(name: string) -> bool;
    }

    world recipe {
        export id-generator;
    }
"#
);

/// Slots of one name: all are looked at.
const MAX_SLOTS: u32 = 10_000;

fn next(name: String) -> u64 {
    reserve(name, 1).first
}

fn reserve(name: String, count: u32) -> Block {
    if count == 0 {
        refuse!("a block has at least one number");
    }
    let sequence = sequence_path(&name);
    let first = next_of(&sequence);
    let Some(next) = first.checked_add(count.into()) else {
        refuse!("the sequence {name:?} has come to its end");
    };
    tree::put(&sequence, next.to_string());
    Block { first, count }
}

fn skip_to(name: String, next: u64) -> bool {
    let sequence = sequence_path(&name);
    let is_lower = next_of(&sequence) < next;
    if is_lower {
        tree::put(&sequence, next.to_string());
    }
    is_lower
}

fn claim_slot(name: String, limit: u32) -> Option<u32> {
    if limit == 0 {
        refuse!("there is at least one slot");
    }
    bound::require_most("slots", limit.into(), MAX_SLOTS.into());
    let slots = slots_path(&name);
    let taken = tree::entries(&slots, &Range::first(MAX_SLOTS));
    if let Some(mine) = taken.iter().find(|slot| slot.is_mine()) {
        return mine.name.parse().ok();
    }
    let is_at_its_place = |(place, slot): &(u32, &Child)| slot.name == slot_name(*place);
    let in_a_row = (0u32..).zip(&taken).take_while(is_at_its_place).count() as u32;
    (in_a_row < limit).then(|| {
        tree::create(&path!(slots, slot_name(in_a_row)), "", mine());
        in_a_row
    })
}

fn release_slot(name: String) -> bool {
    let slots = slots_path(&name);
    let taken = tree::entries(&slots, &Range::first(MAX_SLOTS));
    match taken.iter().find(|slot| slot.is_mine()) {
        Some(slot) => {
            tree::delete(&path!(slots, slot.name));
            true
        }
        None => false,
    }
}

fn sequence_path(name: &str) -> String {
    require_name(name);
    path!("sequences", name)
}

fn slots_path(name: &str) -> String {
    require_name(name);
    path!("slots", name)
}

fn slot_name(slot: u32) -> String {
    format!("{slot:04}")
}

fn next_of(sequence: &str) -> u64 {
    tree::get(sequence).map_or(1, |node| node.parse())
}
