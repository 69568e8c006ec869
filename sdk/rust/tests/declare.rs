//! What `recipe!` takes. That it compiles is the test: there is no server here to run against.

#![allow(dead_code, reason = "nothing calls the operations here")]

use quorate_recipe::path;

/// Types of every kind, one from the ABI, one from an interface that is not exported.
mod types {
    use quorate_recipe::prelude::*;

    recipe!(
        r#"
        package example:types@1.0.0;
        interface shared {
            record point { x: s32, y: s32 }
        }
        interface shapes {
            use shared.{point};
            use quorate:recipe/types@0.1.0.{zxid};
            flags rights { read, write }
            enum colour { red, green }
            variant shape { dot, circle(f64), line(tuple<point, point>) }
            type label = string;
            draw: func(shape: shape, label: option<label>, rights: rights) -> result<zxid, colour>;
            %type: func(%record: list<u8>);
        }
        world recipe { export shapes; }
        "#
    );

    fn draw(shape: Shape, label: Option<Label>, rights: Rights) -> Result<Zxid, Colour> {
        match shape {
            Shape::Line((from, to)) if from == to && label.is_none() => Err(Colour::Red),
            _ if rights.contains(Rights::WRITE) => Ok(call::transaction()),
            _ => refuse!("no right to draw {shape:?}"),
        }
    }

    fn type_(record: Vec<u8>) {
        tree::put("data", record);
    }
}

/// Two interfaces with an operation of the same name, and one that the world exports by itself.
mod names {
    use quorate_recipe::recipe;

    recipe!(
        r#"
        package example:names;
        interface left { get: func() -> u8; only: func(); }
        interface right { get: func() -> u16; }
        world recipe { export left; export right; export alone: func(); }
        "#
    );

    fn left_get() -> u8 {
        1
    }

    fn right_get() -> u16 {
        2
    }

    fn only() {}

    fn alone() {}
}

/// A guard and a standing operation are exports of the ABI's own interfaces.
mod hooks {
    use quorate_recipe::prelude::*;

    recipe!(
        r#"
        package example:hooks;
        interface audit { count: func() -> u32; }
        world recipe {
            export audit;
            export quorate:recipe/guard@0.1.0;
            export quorate:recipe/standing@0.1.0;
        }
        "#
    );

    fn count() -> u32 {
        tree::exists("").map_or(0, |stat| stat.children)
    }

    fn admit(changes: Vec<Change>) {
        if changes.iter().any(|change| change.after.is_none()) {
            call::refuse("nothing is deleted here");
        }
    }

    fn run() {
        watch::subtree("");
        call::park("");
    }
}

mod file {
    use quorate_recipe::recipe;

    recipe!(file = "tests/declared.wit");

    pub(super) fn next(after: u64) -> u64 {
        after + 1
    }
}

#[test]
fn paths_are_joined() {
    let name = String::from("orders");
    assert_eq!(path!(name), "orders");
    assert_eq!(path!(name, "ticket", 7), "orders/ticket/7");
    assert_eq!(file::next(1), 2);
}
