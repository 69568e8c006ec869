//! Shared values by name. A value is a persistent znode; its version is the transaction that set it.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:shared-value@0.1.0;

    /// Shared values by name. A value stays until it is removed. Its version grows with each change and
    /// never comes again, also when the value is removed and set anew.
    interface shared-value {
        /// A value as it is.
        record versioned {
            /// The value.
            value: string,
            /// The transaction that set it.
            version: u64,
        }

        /// The value; none if it was never set.
        get: func(name: string) -> option<versioned>;

        /// Sets the value, of 128 KiB at most (`value-bytes`); gives its version.
        set: func(name: string, value: string) -> u64;

        /// Sets the value if its version is `expected`, or none if there is to be none; gives its version,
        /// or none if it was another.
        compare-and-set: func(name: string, expected: option<u64>, value: string) -> option<u64>;

        /// Waits until the version is another than `known`, or none if that is none; gives what is there
        /// then. Of several changes meanwhile, the last.
        wait-for-change: func(name: string, known: option<u64>) -> option<versioned>;

        /// Removes the value; says whether there was one.
        remove: func(name: string) -> bool;
    }

    world recipe {
        export shared-value;
    }
"#
);

/// A value: with whatever has to be escaped in it, it fits an answer.
const MAX_VALUE_BYTES: usize = 128 << 10;

fn get(name: String) -> Option<Versioned> {
    require_name(&name);
    tree::get(&name).map(|node| Versioned {
        value: node.text().to_owned(),
        version: node.stat.modified,
    })
}

fn set(name: String, value: String) -> u64 {
    require_name(&name);
    require_value(&value);
    tree::put(&name, value);
    call::transaction()
}

fn compare_and_set(name: String, expected: Option<u64>, value: String) -> Option<u64> {
    require_name(&name);
    require_value(&value);
    let version = tree::exists(&name).map(|stat| stat.modified);
    (version == expected).then(|| set(name, value))
}

fn wait_for_change(name: String, known: Option<u64>) -> Option<Versioned> {
    let current = get(name.clone());
    if current.as_ref().map(|current| current.version) == known {
        park!(""; name);
    }
    current
}

fn remove(name: String) -> bool {
    require_name(&name);
    let there = tree::exists(&name).is_some();
    if there {
        tree::delete(&name);
    }
    there
}

fn require_value(value: &str) {
    bound::require_bytes("value-bytes", value, MAX_VALUE_BYTES);
}
