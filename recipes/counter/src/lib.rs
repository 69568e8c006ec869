//! Counters by name. A counter is a persistent znode whose data are its value in decimal.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:counter@0.1.0;

    /// Counters by name. A counter that was never written is 0.
    interface counter {
        /// Adds to the counter, or takes away if `amount` is negative; gives the new value. Refused if
        /// that does not fit 64 bits.
        add: func(name: string, amount: s64) -> s64;

        /// The value.
        get: func(name: string) -> s64;

        /// Sets the counter to `value` if it is `expected`; says whether it was.
        compare-and-set: func(name: string, expected: s64, value: s64) -> bool;
    }

    world recipe {
        export counter;
    }
"#
);

fn add(name: String, amount: i64) -> i64 {
    let value = value(&name);
    let Some(sum) = value.checked_add(amount) else {
        refuse!("the counter {name:?} is at {value}: adding {amount} does not fit 64 bits");
    };
    tree::put(&name, sum.to_string());
    sum
}

fn get(name: String) -> i64 {
    value(&name)
}

fn compare_and_set(name: String, expected: i64, value: i64) -> bool {
    let matches = self::value(&name) == expected;
    if matches {
        tree::put(&name, value.to_string());
    }
    matches
}

fn value(name: &str) -> i64 {
    require_name(name);
    tree::get(name).map_or(0, |node| node.parse())
}
