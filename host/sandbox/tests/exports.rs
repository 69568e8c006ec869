//! What a recipe exports beside its operations: it is seen, and called.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod double;

use bytes::Bytes;
use double::{MemoryTree, input};
use quorate_model::bound::{Bound, MountBounds};
use quorate_model::id::Zxid;
use quorate_model::path::RelativePath;
use quorate_model::recipe::RecipeDigest;
use quorate_model::run::{
    GuardedChange, Invocation, RunEnding, RunInput, Runner as _, TreeAccess as _,
};
use quorate_model::znode::{Lifetime, Node};
use quorate_sandbox::{Sandbox, SandboxConfig, bound};
use wit_component::StringEncoding;
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// A component whose functions trap: what of it is called is told by the trap.
fn trapping(world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let abi = include_str!("../../../wit/recipe.wit");
    resolve.push_str("recipe.wit", abi).unwrap();
    let text = format!(
        "package example:store@2.1.0; interface store {{ get: func() -> u8; }} world recipe {{ {world} }}"
    );
    let package = resolve.push_str("own.wit", &text).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mangling = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
    let mut module = wit_component::dummy_module(&resolve, world, mangling);
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    module
}

fn ready(sandbox: &Sandbox<MemoryTree>, upload: &[u8]) -> RecipeDigest {
    let prepared = sandbox.prepare(upload).unwrap();
    sandbox
        .make_ready(prepared.digest, &prepared.component)
        .unwrap();
    prepared.digest
}

fn invoke(digest: RecipeDigest, invocation: Invocation) -> RunInput {
    RunInput {
        invocation,
        ..input(digest, 1, "", "[]", None, 7)
    }
}

/// A change of one znode, which was created with these data.
fn created(data: Vec<u8>) -> Invocation {
    let path = RelativePath::parse("x").unwrap();
    let mut tree = MemoryTree::new();
    tree.create(&path, Bytes::from(data), Lifetime::Persistent)
        .unwrap();
    let after: Option<Node> = tree.get(&path).unwrap();
    Invocation::Guard(vec![GuardedChange {
        path,
        before: None,
        after,
    }])
}

#[test]
fn guard_and_standing_are_seen_and_called() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let both =
        "export store; export quorate:recipe/guard@0.1.0; export quorate:recipe/standing@0.1.0;";
    let prepared = sandbox.prepare(&trapping(both)).unwrap();
    let exports = prepared.interface.exports();
    assert!(exports.guard && exports.standing);
    assert_eq!(prepared.interface.version.as_deref(), Some("2.1.0"));
    assert_eq!(
        prepared.interface.operations.len(),
        1,
        "those are no operations"
    );
    let digest = ready(&sandbox, &trapping(both));
    for invocation in [Invocation::Standing, created(b"letter".to_vec())] {
        let report = sandbox.run(invoke(digest, invocation.clone()), MemoryTree::new());
        assert!(
            matches!(report.ending, RunEnding::Trapped(_)),
            "{invocation:?}: {:?}",
            report.ending
        );
        assert!(report.fuel > 0);
    }
    assert_eq!(sandbox.fits(&digest, "get", "[]"), Ok(()));
    for (operation, arguments) in [("get", "[1]"), ("run", "[]")] {
        assert!(sandbox.fits(&digest, operation, arguments).is_err());
    }

    // One of them is enough for a recipe.
    let alone = ready(&sandbox, &trapping("export quorate:recipe/standing@0.1.0;"));
    let report = sandbox.run(invoke(alone, created(Vec::new())), MemoryTree::new());
    assert!(
        matches!(report.ending, RunEnding::BadCall(_)),
        "{:?}",
        report.ending
    );
}

#[test]
fn a_mounts_bounds_hold_and_what_a_guard_is_asked_costs_fuel() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let digest = ready(&sandbox, &trapping("export quorate:recipe/guard@0.1.0;"));
    let bounds = MountBounds::default().with(Bound::Fuel, Some(5_000));
    let mut input = invoke(digest, created(vec![b'x'; 10_000]));
    input.transaction = Zxid(8);
    input.bounds = bounds;
    let report = sandbox.run(input, MemoryTree::new());
    match report.ending {
        RunEnding::Exceeded { bound, .. } => assert_eq!(bound, bound::FUEL),
        other => panic!("{other:?}"),
    }
}
