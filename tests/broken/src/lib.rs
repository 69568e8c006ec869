//! Recipes with a bug each, as one writes them. `quorate recipe explore` finds all of them, which
//! `tests/python/test_properties.py` holds; what each promises stands beside it, in `properties/`.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:broken@0.1.0;

    interface broken {
        /// A barrier.
        set: func(name: string) -> bool;
        remove: func(name: string) -> bool;
        wait: func(name: string);

        /// A countdown latch.
        start: func(name: string, count: u64) -> bool;
        count-down: func(name: string) -> u64;
        pass: func(name: string);

        /// A read-write lock.
        read: func(name: string) -> u64;
        write: func(name: string) -> u64;
        release: func(name: string, token: u64);

        /// A double barrier.
        enter: func(name: string, size: u32);
        leave: func(name: string);

        /// A partitioner.
        join: func(name: string, member: string) -> list<u32>;

        /// A rate limiter.
        take: func(name: string) -> bool;

        /// A counter.
        add: func(name: string, amount: s64) -> s64;

        /// A group.
        register: func(name: string, member: string);
    }

    world recipe { export broken; }
"#
);

fn set(name: String) -> bool {
    let is_new = tree::exists(&name).is_none();
    if is_new {
        tree::create(&name, "", Lifetime::Persistent);
    }
    is_new
}

fn remove(name: String) -> bool {
    tree::try_delete(&name).is_ok()
}

fn wait(name: String) {
    // The bug: the barrier may be another than the one that it has waited for.
    if tree::exists(&name).is_some() {
        park!(""; name);
    }
}

fn start(name: String, count: u64) -> bool {
    if tree::exists(&name).is_some() {
        return false;
    }
    tree::create(&name, count.to_string(), Lifetime::Persistent);
    true
}

fn count_down(name: String) -> u64 {
    let count: u64 = tree::get(&name).map_or(0, |node| node.parse());
    let left = count.saturating_sub(1);
    tree::put(&name, left.to_string());
    left
}

fn pass(name: String) {
    let count: u64 = tree::get(&name).map_or(0, |node| node.parse());
    // The bug: one is not none.
    if count > 1 {
        park!(""; name);
    }
}

fn read(name: String) -> u64 {
    let (readers, writers) = (path!(name, "readers"), path!(name, "writers"));
    let ticket = call::memo().unwrap_or_else(|| stand_in(&readers));
    if let Some(ahead) = tree::child_before(&writers, &ticket) {
        park!(ticket; path!(writers, ahead));
    }
    line::number(&ticket)
}

fn write(name: String) -> u64 {
    let writers = path!(name, "writers");
    let ticket = call::memo().unwrap_or_else(|| stand_in(&writers));
    // The bug: there may be readers.
    if let Some(ahead) = tree::child_before(&writers, &ticket) {
        park!(ticket; path!(writers, ahead));
    }
    line::number(&ticket)
}

fn release(name: String, token: u64) {
    let ticket = line::ticket(token);
    for line in ["readers", "writers"] {
        let path = path!(name, line, ticket);
        if tree::exists(&path).is_some_and(|stat| stat.is_mine()) {
            return tree::delete(&path);
        }
    }
    refuse!("there is no such hold");
}

fn stand_in(line: &str) -> String {
    tree::create_sequential(line, "ticket-", "", mine())
}

fn enter(name: String, size: u32) {
    let member = path!(name, call::session().to_string());
    if call::memo_bytes().is_none() {
        if tree::exists(&member).is_some() {
            refuse!("it has entered already");
        }
        tree::create(&member, "", mine());
    }
    if tree::exists(&name).is_none_or(|stat| stat.children < size) {
        watch::children(&name);
        call::park("");
    }
}

fn leave(name: String) {
    // The bug: it does not wait for the others.
    if tree::try_delete(&path!(name, call::session().to_string())).is_err() {
        refuse!("it has not entered");
    }
}

fn join(name: String, member: String) -> Vec<u32> {
    let path = path!(name, member);
    match tree::exists(&path) {
        None => tree::create(&path, "", mine()),
        Some(stat) if stat.is_mine() => {}
        Some(_) => refuse!("it is another session's"),
    }
    let members = tree::children(&name, &Range::all());
    // The bug: whoever had it until now works on it.
    let is_its = |number: &u32| members[*number as usize % members.len()] == member;
    (0..4).filter(is_its).collect()
}

/// Five in each period.
fn take(name: String) -> bool {
    const PERIOD_MS: u64 = 150;
    let period = call::now() / PERIOD_MS;
    let node = tree::get(&name).map(|node| node.text().to_owned());
    let (last, taken) = node
        .as_deref()
        .and_then(|text| text.split_once(' '))
        .map_or((0, 0), |(last, taken)| {
            let number = |text: &str| text.parse::<u64>().expect("it was written here");
            (number(last), number(taken))
        });
    // The bug: five at the end of a period, and five more at the beginning of the next, are ten at once.
    let taken = if last == period { taken } else { 0 };
    if taken == 5 {
        return false;
    }
    tree::put(&name, format!("{period} {}", taken + 1));
    true
}

fn add(name: String, amount: i64) -> i64 {
    // The bug: a session counts for itself.
    let path = path!(name, call::session().to_string());
    let sum = amount + tree::get(&path).map_or(0, |node| node.parse::<i64>());
    tree::put(&path, sum.to_string());
    sum
}

fn register(name: String, member: String) {
    let path = path!(name, member);
    // The bug: it may be another session's.
    if tree::exists(&path).is_some() {
        tree::delete(&path);
    }
    tree::create(&path, "", mine());
}
