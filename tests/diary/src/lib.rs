//! A recipe that runs in all the ways that there are, and says so: for the tests of shadows and replays.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package example:diary@1.0.0;

    interface diary {
        /// Writes it down.
        note: func(name: string, text: string);
        /// Waits until something is noted under that name, and writes down that it was read.
        wait-for: func(name: string) -> string;
        /// The same, but traps then.
        trap-after: func(name: string);
    }

    world recipe {
        export diary;
        export quorate:recipe/guard@0.1.0;
        export quorate:recipe/standing@0.1.0;
    }
"#
);

/// What it writes with: another version has another.
const INK: &str = if cfg!(feature = "red") { "red" } else { "blue" };

fn note(name: String, text: String) {
    log::info(&format!("{name} is noted"));
    tree::put(&name, text);
}

fn wait_for(name: String) -> String {
    let text = await_note(&name);
    tree::put("read", format!("{INK} {name}"));
    text
}

fn trap_after(name: String) {
    await_note(&name);
    tree::put("read", "by nobody");
    panic!("{name} is too much to read");
}

fn await_note(name: &str) -> String {
    require_name(name);
    if let Some(note) = tree::get(name) {
        let memo = call::memo().unwrap_or_else(|| "nothing".to_owned());
        log::warn(&format!("{name} is read at {}, after {memo}", call::now()));
        return note.text().to_owned();
    }
    log::info(&format!("{name} is awaited since {}", call::started()));
    watch::node(name);
    call::park(format!("waiting in transaction {}", call::transaction()));
}

/// Lets everything through but what burns, and keeps what came last.
fn admit(changes: Vec<Change>) {
    for change in changes {
        let text = change.after.as_ref().map_or("", |node| node.text());
        log::debug(&format!(
            "{} becomes {text:?} by session {}",
            change.path,
            call::session()
        ));
        tree::put("last", format!("{INK} {}", change.path));
        if text == "fire" {
            panic!("{} burns", change.path);
        }
    }
}

/// Counts the pages.
fn run() {
    let pages = tree::children("pages", &Range::first(100));
    log::info(&format!(
        "{} pages at {}, after {:?}",
        pages.len(),
        call::now(),
        call::memo()
    ));
    if pages.iter().any(|page| page == "torn") {
        panic!("a page is torn");
    }
    tree::put("counted", format!("{INK} {}", pages.len()));
    watch::children("pages");
    call::park(pages.len().to_string());
}
