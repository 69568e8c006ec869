//! Making components ready: compiled once, kept on disk, bounded in memory.

mod double;

use std::fs;
use std::path::{Path, PathBuf};

use double::{MemoryTree, input, returned};
use quorate_model::recipe::RecipeDigest;
use quorate_model::run::{RunEnding, Runner as _};
use quorate_sandbox::{PreparedRecipe, ReadyError, Sandbox, SandboxConfig, UploadLimits, prepare};

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
