//! Arrows between the crates go down only.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");

/// What each crate may name of ours, and which crate alone may name an engine.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("quorate-model", &[][..]),
        ("quorate-wire", &["quorate-model"]),
        ("quorate-tree", &["quorate-model"]),
        ("quorate-sandbox", &["quorate-model"]),
        ("quorate-consensus", &["quorate-model"]),
        (
            "quorate-workbench",
            &["quorate-model", "quorate-sandbox", "quorate-tree"],
        ),
        ("quorate-recipes", &[]),
        ("quorate-client", &["quorate-model", "quorate-wire"]),
        ("quorate-recipe", &["quorate-recipe-macros"]),
        ("quorate-recipe-macros", &[]),
        ("diary", RECIPE),
        ("broken", RECIPE),
        ("hostile", RECIPE),
    ])
}

/// What stands above all others, and may name any of them.
const ABOVE: [&str; 6] = [
    "quorate",
    "quorate-bench",
    "quorate-examples",
    "quorate-simulation",
    "quorate-tests",
    "xtask",
];

/// What a standard recipe, of which there is one in each other folder beside `recipes/embed`, may name of ours.
const RECIPE: &[&str] = &["quorate-recipe"];

/// Engines, and the one crate that names each.
const ENGINES: [(&str, &str); 2] = [
    ("openraft", "quorate-consensus"),
    ("wasmtime", "quorate-sandbox"),
];

/// What the pure middle must not name.
const IMPURE: [&str; 4] = ["tokio", "openraft", "wasmtime", "getrandom"];

/// Every crate of a build of the workspace with its features, as a line.
fn features(kinds: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--no-dedupe"])
        .args(["--prefix", "none", "--format", "{p} {f}", "--edges", kinds])
        .args(["--manifest-path", MANIFEST])
        .output()
        .expect("cargo runs");
    let (lines, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    let lines = String::from_utf8(lines).expect("cargo writes UTF-8");
    lines.lines().map(str::to_owned).collect()
}

/// Cargo chooses features anew when tests are not built. A wasm compiler with everything above it is long to build.
#[test]
fn the_demo_and_the_tests_share_one_build() {
    let without = features("normal,build");
    let with = features("normal,build,dev");
    assert!(without.len() > 100, "{without:?}");
    let anew: Vec<&String> = without.symmetric_difference(&with).collect();
    assert!(
        anew.is_empty(),
        "name what brings these also in tests/Cargo.toml: {anew:?}"
    );
}

#[test]
fn arrows_between_crates_go_down_only() {
    let arguments = [
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version=1",
        "--manifest-path",
    ];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg(MANIFEST)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(
        packages.len() > 8,
        "the workspace has more crates than that"
    );
    let mut allowed = allowed();
    let is_recipe = |package: &&Value| {
        let manifest = package["manifest_path"].as_str().unwrap();
        manifest.contains("/recipes/") && !manifest.contains("/recipes/embed/")
    };
    for recipe in packages.iter().filter(is_recipe) {
        allowed.insert(recipe["name"].as_str().unwrap(), RECIPE);
    }
    for package in packages {
        let name = package["name"].as_str().unwrap();
        assert!(
            allowed.contains_key(name) || ABOVE.contains(&name),
            "{name} is new: say here what it may depend on"
        );
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        for dependency in dependencies.filter(|dependency| dependency["kind"].is_null()) {
            let used = dependency["name"].as_str().unwrap();
            for (engine, crate_of_it) in ENGINES {
                assert!(
                    !used.starts_with(engine) || name == crate_of_it,
                    "{name} names {used}"
                );
            }
            if ["quorate-model", "quorate-tree", "quorate-wire"].contains(&name) {
                assert!(!IMPURE.contains(&used), "{name} is pure and names {used}");
            }
            let ours = packages.iter().any(|other| other["name"] == *used);
            assert!(
                !ours || ABOVE.contains(&name) || allowed[name].contains(&used),
                "{name} must not depend on {used}"
            );
        }
    }
}
