//! Builds the standard recipes for WebAssembly with the same cargo, as their author would.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";
const PROFILE: &str = "recipe";

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .nth(2)
        .expect("the crate stands in recipes/embed");
    let recipes = recipes(root);
    rebuild_when_sources_change(root, &recipes);
    require_target();

    // A target folder of its own: cargo holds a lock on the outer one while this runs.
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("recipes");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .arg("build")
        .args(["--target", TARGET, "--profile", PROFILE, "--locked"])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir);
    for recipe in &recipes {
        cargo.args(["--package", recipe]);
    }
    clear_environment(&mut cargo);
    // Its output is for the author of a recipe; cargo shows a build script's only when it fails.
    let output = cargo.output().expect("cargo starts, as it did before");
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        panic!("the standard recipes do not build: {:?}", output.status);
    }

    let mut table = String::from("static ALL: &[StandardRecipe] = &[\n");
    for recipe in &recipes {
        let file = format!("{}.wasm", recipe.replace('-', "_"));
        let path = target_dir.join(TARGET).join(PROFILE).join(file);
        writeln!(
            table,
            "StandardRecipe {{ name: {recipe:?}, wasm: include_bytes!({path:?}) }},"
        )
        .expect("a string takes whatever is written to it");
    }
    table.push_str("];\n");
    let path = PathBuf::from(variable("OUT_DIR")).join("table.rs");
    fs::write(&path, table).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The folders beside this crate's, by name: each is a recipe.
fn recipes(root: &Path) -> Vec<String> {
    let folder = root.join("recipes");
    let entries = fs::read_dir(&folder).expect("the crate stands in recipes/embed");
    let mut recipes: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "embed" && folder.join(name).join("Cargo.toml").exists())
        .collect();
    recipes.sort();
    recipes
}

fn rebuild_when_sources_change(root: &Path, recipes: &[String]) {
    let shared = ["Cargo.toml", "Cargo.lock", "wit", "sdk/rust"].map(PathBuf::from);
    let recipes = recipes
        .iter()
        .map(|recipe| Path::new("recipes").join(recipe));
    for source in shared.into_iter().chain(recipes) {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    // Another recipe comes with a line in the workspace's Cargo.toml.
}

/// Without the target, cargo's own message does not say what to do.
fn require_target() {
    let output = Command::new(variable("RUSTC"))
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .expect("rustc starts, as it did before");
    let folder = String::from_utf8_lossy(&output.stdout);
    if !Path::new(folder.trim()).exists() {
        panic!(
            "the standard recipes are built for WebAssembly, which this toolchain lacks: run `rustup \
             target add {TARGET}` and build again"
        );
    }
}

/// The outer build's flags, target, profile overrides, wrappers (clippy's, say) and job server are not for
/// this one; where its packages come from is.
fn clear_environment(cargo: &mut Command) {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let is_build_variable = [
            "CARGO",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTDOC",
            "CLIPPY",
            "MAKEFLAGS",
            "MFLAGS",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
        if is_build_variable && !KEPT.iter().any(|kept| name.starts_with(kept)) {
            cargo.env_remove(name);
        }
    }
    for name in [
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
    ] {
        cargo.env_remove(name);
    }
    // The outer build's compiler, and not whatever stands first on the path.
    cargo.env("RUSTC", variable("RUSTC"));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
