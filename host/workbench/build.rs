//! Gathers the SDK's sources, so that `recipe new` needs nothing but the binary: its files, the part of the
//! workspace's manifest that they stand on, and the versions that they are tested with.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the SDK's two crates and the ABI are, from the repository's root.
const SOURCES: [&str; 5] = [
    "sdk/rust/Cargo.toml",
    "sdk/rust/src",
    "sdk/rust/macros/Cargo.toml",
    "sdk/rust/macros/src",
    "wit",
];

fn main() {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here
        .ancestors()
        .nth(2)
        .expect("the crate stands in host/workbench");
    for source in SOURCES
        .iter()
        .chain(&["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"])
    {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files);
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(root).expect("it lies below the root");
        writeln!(list, "({:?}, include_str!({:?})),", slashes(name), file).expect("to memory");
    }
    list.push(']');
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let write =
        |name: &str, text: String| fs::write(out.join(name), text).expect("OUT_DIR is ours");
    write("sdk.rs", list);
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("it is in the repository");
    write("workspace.toml", workspace(&read("Cargo.toml"), &files));
    write("Cargo.lock", lock(&read("Cargo.lock")));
    write("rust-toolchain.toml", read("rust-toolchain.toml"));
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
        return;
    }
    for entry in fs::read_dir(path).expect("the SDK is in the repository") {
        collect(&entry.expect("it can be listed").path(), files);
    }
}

/// A path as all systems understand it in a manifest.
fn slashes(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

/// The workspace of the SDK alone: what its manifests take over from the repository's.
fn workspace(manifest: &str, files: &[PathBuf]) -> String {
    let (_, package) = manifest
        .split_once("[workspace.package]\n")
        .expect("it has one");
    let package = package.split("\n[").next().unwrap_or_default();
    let mut text = format!(
        "# The SDK as it came with `quorate recipe new`.\n[workspace]\nresolver = \"3\"\n\
         members = [\"sdk/rust\", \"sdk/rust/macros\"]\n\n[workspace.package]\n{package}\n[workspace.dependencies]\n"
    );
    let mut wanted = BTreeSet::new();
    for file in files.iter().filter(|file| file.ends_with("Cargo.toml")) {
        let of_crate = fs::read_to_string(file).expect("it was found");
        let (_, dependencies) = of_crate.split_once("[dependencies]\n").unwrap_or_default();
        let lines = dependencies
            .lines()
            .take_while(|line| !line.starts_with('['));
        let names = lines.filter_map(|line| line.strip_suffix(".workspace = true"));
        wanted.extend(names.map(str::to_owned));
    }
    for name in wanted {
        let begin = format!("{name} = ");
        let line = manifest.lines().find(|line| line.starts_with(&begin));
        let line = line
            .unwrap_or_else(|| panic!("{name} stands in the workspace's manifest, in one line"));
        text += &format!("{line}\n");
    }
    text + "\n[workspace.lints]\n"
}

/// The part of the lock file that the SDK needs.
fn lock(text: &str) -> String {
    let packages: Vec<&str> = text.split("[[package]]\n").skip(1).collect();
    let field = |package: &str, name: &str| {
        let begin = format!("{name} = \"");
        let line = package.lines().find_map(|line| line.strip_prefix(&*begin));
        line.map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let mut wanted = vec!["quorate-recipe".to_owned()];
    let mut taken = BTreeSet::new();
    while let Some(dependency) = wanted.pop() {
        let mut words = dependency.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let found = packages.iter().position(|package| {
            field(package, "name").as_deref() == Some(name)
                && version
                    .is_none_or(|version| field(package, "version").as_deref() == Some(version))
        });
        let place = found.unwrap_or_else(|| panic!("{dependency} stands in the lock file"));
        if taken.insert(place) {
            let lines = packages[place].lines();
            let dependencies = lines.filter_map(|line| line.strip_prefix(" \""));
            wanted.extend(dependencies.map(|line| line.trim_end_matches("\",").to_owned()));
        }
    }
    let mut lock = text
        .split("[[package]]\n")
        .next()
        .unwrap_or_default()
        .to_owned();
    for place in taken {
        lock += "[[package]]\n";
        lock += packages[place];
    }
    lock
}
