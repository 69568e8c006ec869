//! A recipe that means ill. Each operation goes against one bound; `tests/python/test_hostile_recipes.py` runs them.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:hostile@0.1.0;

    interface hostile {
        /// Never returns.
        spin: func();
        /// Takes memory until there is none.
        grow: func();
        /// Calls itself until there is no stack.
        deepen: func(depth: u64) -> u64;
        /// Asks the tree for ever.
        ask: func();
        /// Writes for ever.
        write: func();
        /// Creates a path of a thousand names.
        nest: func();
        /// Gives so many bytes.
        give: func(count: u32) -> string;
        /// Logs for ever, lines of so many bytes.
        talk: func(count: u32);
        /// Sets watches for ever.
        watch-for-ever: func();
        /// Parks with a memo of so many bytes.
        remember: func(count: u32);
        /// Writes there, whether that is inside the mount or not.
        put: func(path: string);
        /// Reads there.
        read: func(path: string) -> option<string>;
        /// Deletes there.
        remove: func(path: string);
        /// Writes, and traps.
        half: func();
        /// Parks, and is woken at once, for ever.
        restless: func();
        /// Whenever `theirs` changes, changes `mine`.
        wake: func(mine: string, theirs: string);
        /// Waits for any change below the mount, and for the next one, for ever.
        watch-everything: func();
        /// Changes something.
        touch: func();
    }

    world recipe {
        export hostile;
    }
"#
);

fn spin() {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn grow() {
    let mut all = Vec::new();
    loop {
        // Not written to: that would use up the fuel first.
        all.push(Vec::<u8>::with_capacity(1 << 20));
        std::hint::black_box(&all);
    }
}

#[allow(
    unconditional_recursion,
    reason = "that is what it is for: the host ends it"
)]
fn deepen(depth: u64) -> u64 {
    // No array on the way: it would lie in the component's own stack, in its memory, which is used up sooner.
    std::hint::black_box(deepen(depth + 1)) + depth
}

fn ask() {
    loop {
        tree::exists("x");
    }
}

fn write() {
    for number in 0_u64.. {
        tree::put(&number.to_string(), [b'x'; 1000]);
    }
}

fn nest() {
    tree::create(&["x"; 1000].join("/"), "", Lifetime::Persistent);
}

fn give(count: u32) -> String {
    "x".repeat(count as usize)
}

fn talk(count: u32) {
    let line = "x".repeat(count as usize);
    loop {
        log::info(&line);
    }
}

fn watch_for_ever() {
    for number in 0_u64.. {
        watch::node(&number.to_string());
    }
}

fn remember(count: u32) {
    watch::subtree("");
    call::park("x".repeat(count as usize));
}

fn put(path: String) {
    tree::put(&path, "hostile");
}

fn read(path: String) -> Option<String> {
    tree::get(&path).map(|node| node.text().to_owned())
}

fn remove(path: String) {
    tree::delete(&path);
}

fn half() {
    tree::put("half", "written");
    panic!("on purpose");
}

fn restless() {
    watch::time(call::now());
    call::park("");
}

fn wake(mine: String, theirs: String) {
    watch::node(&theirs);
    tree::put(&mine, call::transaction().to_string());
    call::park("");
}

fn watch_everything() {
    watch::subtree("");
    call::park("");
}

fn touch() {
    tree::put("touched", call::transaction().to_string());
}
