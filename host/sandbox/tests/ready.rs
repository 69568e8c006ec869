//! Making components ready: compiled once, kept on disk, bounded in memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod double;

use std::fs;
use std::path::{Path, PathBuf};

use double::{MemoryTree, input, returned};
use quorate_model::recipe::RecipeDigest;
use quorate_model::run::{RunEnding, Runner as _};
use quorate_sandbox::{PreparedRecipe, ReadyError, Sandbox, SandboxConfig, UploadLimits, prepare};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

fn standard(name: &str) -> PreparedRecipe {
    let upload = quorate_recipes::find(name).unwrap().wasm;
    prepare(upload, &UploadLimits::default()).unwrap()
}

fn sandbox(directory: Option<&Path>) -> Sandbox<MemoryTree> {
    Sandbox::new(SandboxConfig {
        concurrent_runs: 1,
        ready_recipes: 2,
        cache_directory: directory.map(Path::to_owned),
        ..SandboxConfig::default()
    })
    .unwrap()
}

fn get(sandbox: &Sandbox<MemoryTree>, digest: RecipeDigest) -> RunEnding {
    let input = input(digest, 1, "get", r#"["a"]"#, None, 7);
    sandbox.run(input, MemoryTree::new()).ending
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_is_not_ready_is_answered_so_with_the_tree() {
    let sandbox = sandbox(None);
    let counter = standard("counter");
    assert!(sandbox.interface(&counter.digest).is_none());
    let mut tree = MemoryTree::new();
    tree.next_sequence = 77;
    let input = input(counter.digest, 1, "get", r#"["a"]"#, None, 7);
    let report = sandbox.run(input, tree);
    assert_eq!(report.ending, RunEnding::NotReady);
    assert_eq!(report.tree.next_sequence, 77);

    let interface = sandbox.make_ready(counter.digest, &counter.component);
    assert_eq!(interface.unwrap(), counter.interface);
    assert_eq!(get(&sandbox, counter.digest), returned("0"));
    sandbox.forget(&counter.digest);
    assert_eq!(get(&sandbox, counter.digest), RunEnding::NotReady);
}

#[test]
fn compiled_code_is_found_again_and_damage_is_compiled_anew() {
    let directory = tempfile::tempdir().unwrap();
    let counter = standard("counter");
    let make = || {
        let sandbox = sandbox(Some(directory.path()));
        sandbox
            .make_ready(counter.digest, &counter.component)
            .unwrap();
        assert_eq!(get(&sandbox, counter.digest), returned("0"));
        sandbox
    };
    make();
    let [file] = &files(directory.path())[..] else {
        panic!("one file");
    };
    let code = fs::read(file).unwrap();
    let modified = || fs::metadata(file).unwrap().modified().unwrap();
    let first = modified();
    make();
    assert_eq!(modified(), first, "it was found, not written again");

    for damage in [0, 20, code.len() / 2, code.len() - 1] {
        let mut damaged = code.clone();
        damaged[damage] ^= 1;
        fs::write(file, damaged).unwrap();
        make();
        assert_eq!(fs::read(file).unwrap().len(), code.len());
    }
    fs::write(file, &code[..10]).unwrap();
    let last = make();
    assert_eq!(fs::read(file).unwrap().len(), code.len());
    last.forget(&counter.digest);
    assert!(files(directory.path()).is_empty());
}

#[test]
fn what_other_engines_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let other = format!("{}-0123456789abcdef.cwasm", standard("counter").digest);
    fs::write(directory.path().join(other), "old").unwrap();
    fs::write(directory.path().join("half.new"), "half").unwrap();
    fs::write(directory.path().join("README"), "not ours").unwrap();
    sandbox(Some(directory.path()));
    let left = files(directory.path());
    assert_eq!(left, [directory.path().join("README")]);
}

#[test]
fn the_least_used_makes_room() {
    let sandbox = sandbox(None);
    let [counter, election, lock] = ["counter", "election", "fair-lock"].map(standard);
    let ready = |recipe: &PreparedRecipe| {
        sandbox
            .make_ready(recipe.digest, &recipe.component)
            .unwrap();
    };
    ready(&counter);
    ready(&election);
    assert_eq!(get(&sandbox, counter.digest), returned("0"));
    ready(&lock);
    assert!(sandbox.interface(&counter.digest).is_some());
    assert!(sandbox.interface(&election.digest).is_none());
    assert!(sandbox.interface(&lock.digest).is_some());
}

#[test]
fn only_the_component_of_that_digest_is_made_ready() {
    let sandbox = sandbox(None);
    let [counter, election] = ["counter", "election"].map(standard);
    let error = sandbox.make_ready(counter.digest, &election.component);
    assert_eq!(error, Err(ReadyError::WrongDigest(election.digest)));
}

/// Every import of the ABI has the type that `wit/recipe.wit` gives it, also those that no recipe here uses.
#[test]
fn the_host_gives_what_the_abi_says() {
    let mut resolve = Resolve::default();
    let abi = include_str!("../../../wit/recipe.wit");
    resolve.push_str("recipe.wit", abi).unwrap();
    let text = "package example:all;
        world recipe { include quorate:recipe/imports@0.1.0; export nothing: func(); }";
    let package = resolve.push_str("all.wit", text).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mangling = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
    let mut module = wit_component::dummy_module(&resolve, world, mangling);
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();

    let sandbox = sandbox(None);
    let prepared = sandbox.prepare(&module).unwrap();
    sandbox
        .make_ready(prepared.digest, &prepared.component)
        .unwrap();
}

/// Functions are added within 0.1.x, so a recipe built with a later patch runs if it uses none of them.
#[test]
fn a_later_patch_version_of_the_abi_links() {
    let component = wat::parse_str(
        r#"(component
            (import "quorate:recipe/call@0.1.9" (instance $call (export "now" (func (result u64)))))
            (core func $now (canon lower (func $call "now")))
            (core module $m
                (import "call" "now" (func $now (result i64)))
                (func (export "get") (result i64) (call $now)))
            (core instance $i (instantiate $m (with "call" (instance (export "now" (func $now))))))
            (func (export "get") (result u64) (canon lift (core func $i "get"))))"#,
    );
    let sandbox = sandbox(None);
    let prepared = sandbox.prepare(&component.unwrap()).unwrap();
    sandbox
        .make_ready(prepared.digest, &prepared.component)
        .unwrap();
    let input = input(prepared.digest, 1, "get", "", None, 7);
    let ending = sandbox.run(input, MemoryTree::new()).ending;
    assert_eq!(ending, returned("1007"));
}
