//! A lock with a bug, for `quorate recipe explore` to find: who was woken takes it that its turn has come.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package example:eager-lock;

    interface lock {
        /// Waits its turn; gives a fencing token.
        acquire: func(name: string) -> u64;
        /// Whether there was something to give back.
        release: func(name: string) -> bool;
    }

    world recipe { export lock; }
"#
);

fn acquire(name: String) -> u64 {
    require_name(&name);
    if let Some(ticket) = call::memo() {
        // The bug: whoever stood ahead may have given up, while somebody else holds the lock.
        let ticket = tree::get(&path!(name, ticket));
        return ticket.map_or_else(|| refuse!("the ticket is gone"), |it| it.stat.created);
    }
    let ticket = tree::create_sequential(&name, "ticket-", "", mine());
    if let Some(ahead) = tree::child_before(&name, &ticket) {
        park!(ticket; path!(name, ahead));
    }
    call::transaction()
}

fn release(name: String) -> bool {
    require_name(&name);
    let mine = tree::first(&name).filter(|held| held.is_mine());
    let Some(held) = mine else { return false };
    tree::delete(&path!(name, held.name));
    true
}
