//! Upgrades and roll-backs (rule C10), and what is kept of recipes.

use super::*;
use crate::properties::component;
use quorate_model::recipe::RecipeDigest;

fn digest(byte: u8) -> RecipeDigest {
    RecipeDigest::of(&component(byte))
}

fn upgrade_to(byte: u8) -> Operation {
    Operation::Mount {
        path: ZnodePath::parse("/m").unwrap(),
        recipe: "steps".into(),
        digest: Some(digest(byte)),
        settings: MountSettings::default(),
        upgrade: true,
    }
}

fn mounted_digest(world: &World) -> RecipeDigest {
    let mount = world.replica.mount(&ZnodePath::parse("/m").unwrap());
    mount.unwrap().digest
}

fn remove(byte: Option<u8>) -> Operation {
    Operation::RemoveRecipe {
        name: "steps".into(),
        digest: byte.map(digest),
    }
}

#[test]
fn c10_an_upgrade_runs_the_parked_calls_on_the_new_code_and_ends_those_that_do_not_fit() {
    let (mut world, session) = mounted(true);
    world.set(Bound::LogLines, 7);
    assert_eq!(world.call(session, 1, "wait"), Outcome::Parked);
    assert_eq!(world.call(session, 2, "watch-all"), Outcome::Parked);
    world.push(9);
    assert_eq!(mounted_digest(&world), digest(0), "a push moves no mount");
    let outcome = world.ask(session, upgrade_to(9));
    let upgraded = Outcome::Mounted {
        digest: digest(9),
        woken_calls: 2,
        ending_calls: 1,
    };
    assert_eq!(outcome, upgraded);
    assert_eq!(mounted_digest(&world), digest(9));
    assert!(matches!(
        world.ending(session, 1),
        Some(Ending::Outdated(_))
    ));
    assert_eq!(
        world.ending(session, 2),
        Some(Ending::Returned("null".into()))
    );
    let mount = world
        .replica
        .mount(&ZnodePath::parse("/m").unwrap())
        .unwrap();
    assert!(
        mount.sealed && mount.bounds.of(Bound::LogLines) == 7,
        "the rest stays"
    );

    // The roll-back is the same.
    assert_eq!(world.call(session, 3, "watch-all"), Outcome::Parked);
    let outcome = world.ask(session, upgrade_to(0));
    assert!(matches!(
        outcome,
        Outcome::Mounted {
            woken_calls: 1,
            ending_calls: 0,
            ..
        }
    ));
    assert_eq!(mounted_digest(&world), digest(0));
    assert!(world.ending(session, 3).is_some());
}

#[test]
fn s6_an_upgrade_marks_the_parked_calls_in_steps_and_can_be_evaluated_again() {
    let (mut world, session) = mounted(true);
    for key in 1..=35 {
        assert_eq!(world.call(session, key, "watch-all"), Outcome::Parked);
    }
    world.push(1);
    world.with_bounds(Bounds {
        mount_step: 10,
        ..Bounds::default()
    });
    world
        .evaluator
        .evaluate_alone(&request(session, upgrade_to(1)), None, world.now);
    let batch = world.evaluator.take_batch(usize::MAX).unwrap();
    let marks = |transaction: &quorate_model::write_set::Transaction| {
        let changes = transaction.changes.iter();
        changes
            .filter(|change| matches!(change, Change::Mark(_)))
            .count()
    };
    let steps: Vec<usize> = batch.transactions.iter().map(marks).collect();
    assert_eq!(steps, [10, 10, 10, 5, 0]);
    // Nothing of it is committed; the next leader evaluates the request again.
    world.open_epoch();
    assert_eq!(mounted_digest(&world), digest(0));
    let outcome = world.ask(session, upgrade_to(1));
    assert!(
        matches!(
            outcome,
            Outcome::Mounted {
                woken_calls: 35,
                ..
            }
        ),
        "{outcome:?}"
    );
    world.step(&Step::Pass(100));
    assert!((1..=35).all(|key| world.ending(session, key).is_some()));
}

#[test]
fn c10_an_upgrade_restarts_the_standing_call() {
    let (mut world, session) = mounted(false);
    let runs = |world: &World| {
        let runs = ZnodePath::parse("/m/runs").unwrap();
        world.replica.node(&runs).map_or(0, |node| node.data.len())
    };
    for byte in [2, 3] {
        world.push(byte);
        world.ask(session, upgrade_to(byte));
    }
    assert_eq!(runs(&world), 2);
    world.ask(session, upgrade_to(0));
    assert_eq!(world.replica.parked_calls().count(), 0, "this one has none");
}

#[test]
fn c10_components_are_kept_side_by_side_and_none_in_use_is_removed() {
    let (mut world, session) = mounted(true);
    world.push(1);
    for kept in [0, 1] {
        assert!(world.replica.component(&digest(kept)).is_some());
    }
    for in_use in [Some(0), None] {
        let outcome = world.ask(session, remove(in_use));
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::RecipeInUse { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(world.ask(session, remove(Some(1))), Outcome::Removed);
    assert!(world.replica.component(&digest(1)).is_none());
    assert_eq!(
        world.replica.recipe("steps").unwrap().current.digest,
        digest(0)
    );
    // Many pushes later what is mounted is there, and the oldest of the others has gone.
    for byte in 10..25 {
        let (digest, component) = (digest(byte), component(byte));
        let piece = Operation::UploadPiece {
            digest,
            bytes: component.len() as u64,
            offset: 0,
            piece: component,
        };
        world.ask(session, piece);
        let push = Operation::PushRecipe {
            name: "steps".into(),
            digest,
            version: Some("1.0.0".into()),
            exports: Default::default(),
        };
        assert_eq!(world.ask(session, push), Outcome::Pushed(digest));
    }
    assert!(world.replica.component(&digest(0)).is_some());
    assert!(world.replica.component(&digest(24)).is_some());
    assert!(world.replica.component(&digest(10)).is_none());
    assert!(world.replica.components().count() <= 11);
    world.ask(session, unmount());
    assert_eq!(world.ask(session, remove(None)), Outcome::Removed);
    assert_eq!(world.replica.components().count(), 0);
}
