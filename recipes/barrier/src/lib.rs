//! Barriers by name. A barrier that stands is a persistent znode.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:barrier@0.1.0;

    /// Barriers by name: while one stands, whoever comes waits. It stands until it is removed, whatever
    /// becomes of who set it.
    interface barrier {
        /// Sets the barrier; says whether it did not stand before.
        set: func(name: string) -> bool;

        /// Removes the barrier and lets all pass that wait; says whether it stood.
        remove: func(name: string) -> bool;

        /// Waits until the barrier that stands now is removed; passes at once if none does. One that is
        /// set anew holds only those that come after.
        wait: func(name: string);

        /// Whether the barrier stands.
        is-set: func(name: string) -> bool;
    }

    world recipe {
        export barrier;
    }
"#
);

fn set(name: String) -> bool {
    require_name(&name);
    let is_new = tree::exists(&name).is_none();
    if is_new {
        tree::create(&name, "", Lifetime::Persistent);
    }
    is_new
}

fn remove(name: String) -> bool {
    require_name(&name);
    let stood = tree::exists(&name).is_some();
    if stood {
        tree::delete(&name);
    }
    stood
}

fn wait(name: String) {
    require_name(&name);
    let Some(stat) = tree::exists(&name) else {
        return;
    };
    // By its transaction and not by its name: it may have been removed and set again before this run.
    let barrier = stat.created.to_string();
    if call::memo().is_none_or(|waited_for| waited_for == barrier) {
        park!(barrier; name);
    }
}

fn is_set(name: String) -> bool {
    require_name(&name);
    tree::exists(&name).is_some()
}
