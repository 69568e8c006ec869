//! Double barriers by name: all begin together and end together.
//!
//! Each member has a znode. The last to enter makes the gate, which is all that those who entered before it
//! watch; those who leave watch the members' container, which goes with the last of them. So nobody is woken
//! by each step of the others.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:double-barrier@0.1.0;

    /// Double barriers by name: a group of sessions begins something together, and ends it together,
    /// round after round. A session is one member.
    ///
    /// A member whose session ends, or that gives up entering, is out: those who enter wait for another
    /// in its place, and those who leave do not wait for it.
    interface double-barrier {
        /// Waits until so many sessions have entered. While the round before has not ended, waits for
        /// that first. Refused if this session has entered already, or if others of the round have
        /// given another size.
        enter: func(name: string, size: u32);

        /// Waits until all who have entered have left. Refused if this session is not in a round that
        /// has begun.
        leave: func(name: string);

        /// How many have entered and not left.
        members: func(name: string) -> u32;
    }

    world recipe {
        export double-barrier;
    }
"#
);

/// The memo of a call that has entered.
const ENTERED: &str = "entered";

/// The memo of a call that waits for the round before to end.
const NEXT: &str = "next";

fn enter(name: String, size: u32) {
    let (members, gate, member) = paths(&name);
    let has_entered = call::memo().as_deref() == Some(ENTERED);
    if !has_entered {
        if size == 0 {
            refuse!("a round has at least one member");
        }
        if tree::exists(&member).is_some_and(|stat| stat.is_mine()) {
            refuse!("this session has entered {name:?} already");
        }
        if tree::exists(&gate).is_some() {
            if tree::exists(&members).is_some() {
                park!(NEXT; gate, members);
            }
            // The sessions of all who were in that round have ended.
            tree::delete(&gate);
        }
        if let Some(other) = tree::first(&members)
            && other.parse::<u32>() != size
        {
            refuse!(
                "the others of {name:?} have given the size {}",
                other.text()
            );
        }
        tree::create(&member, size.to_string(), mine());
        if tree::exists(&members).is_some_and(|stat| stat.children >= size) {
            tree::create(&gate, "", Lifetime::Persistent);
        }
    } else if tree::exists(&member).is_none() {
        refuse!("this session was taken out of {name:?}");
    }
    if tree::exists(&gate).is_none() {
        park!(ENTERED; gate, member);
    }
}

fn leave(name: String) {
    let (members, gate, member) = paths(&name);
    let round = call::memo().unwrap_or_else(|| {
        let is_in = tree::exists(&member).is_some_and(|stat| stat.is_mine());
        let round = tree::exists(&members).map(|stat| stat.created.to_string());
        match round {
            Some(round) if is_in && tree::exists(&gate).is_some() => {
                tree::delete(&member);
                round
            }
            _ => refuse!("this session is not in a round of {name:?} that has begun"),
        }
    });
    match tree::exists(&members) {
        Some(stat) if stat.created.to_string() == round => park!(round; members),
        // The next round has begun to gather.
        Some(_) => {}
        None => {
            if tree::exists(&gate).is_some() {
                tree::delete(&gate);
            }
        }
    }
}

fn members(name: String) -> u32 {
    let (members, _, _) = paths(&name);
    tree::exists(&members).map_or(0, |stat| stat.children)
}

/// The members' container, the gate, and this session's member.
fn paths(name: &str) -> (String, String, String) {
    require_name(name);
    let members = path!(name, "members");
    let member = format!("{members}/{:016x}", call::session());
    (members, path!(name, "gate"), member)
}
