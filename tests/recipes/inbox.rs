//! A recipe with a guard and a standing operation, for the tests of mounts.

use quorate_recipe::prelude::*;

recipe!(r#"
    package example:inbox@1.0.0;

    interface inbox {
        /// How many letters were sent.
        sent: func() -> u64;
        /// Waits until so many were.
        wait-for: func(count: u64) -> u64;
        /// Traps.
        fail: func();
    }

    world recipe {
        export inbox;
        export quorate:recipe/guard@0.1.0;
        export quorate:recipe/standing@0.1.0;
    }
"#);

/// Letters have text and stay as they are. The index has the length of each that came.
fn admit(changes: Vec<Change>) {
    for change in changes {
        let Change { path, before, after } = change;
        match (before, after) {
            (None, Some(letter)) if letter.data == b"bomb" => panic!("{path} explodes"),
            (None, Some(letter)) if !letter.data.is_empty() => {
                let lengths = tree::get("index").map_or_else(String::new, |index| index.text().to_owned());
                tree::put("index", format!("{lengths} {}", letter.data.len()).trim());
            }
            (_, None) => {}
            (None, _) => refuse!("{path} has no text"),
            (Some(_), _) => refuse!("{path} was sent already"),
        }
    }
}

/// Counts what comes, and takes it away.
fn run() {
    let letters = tree::children("in", &Range::first(100));
    let before = sent();
    for letter in &letters {
        tree::delete(&path!("in", letter));
    }
    tree::put("sent", (before + letters.len() as u64).to_string());
    watch::children("in");
    call::park("");
}

fn sent() -> u64 {
    tree::get("sent").map_or(0, |node| node.parse())
}

fn wait_for(count: u64) -> u64 {
    let sent = sent();
    if sent < count {
        watch::node("sent");
        call::park("");
    }
    sent
}

fn fail() {
    panic!("as asked");
}
