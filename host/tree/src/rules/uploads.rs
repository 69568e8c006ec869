//! Uploads: in pieces, by whoever is next, bounded, and dropped when nobody goes on.

use bytes::Bytes;
use quorate_model::id::SessionId;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::{MAX_COMPONENT_BYTES, MAX_PIECE_BYTES, RecipeDigest};
use quorate_model::request::Operation;

use super::bound_of;
use crate::Bounds;
use crate::properties::{Step, World};

const NOBODY: SessionId = SessionId::NONE;

fn piece(component: &Bytes, from: usize, to: usize) -> Operation {
    Operation::UploadPiece {
        digest: RecipeDigest::of(component),
        bytes: component.len() as u64,
        offset: from as u64,
        piece: component.slice(from..to),
    }
}

fn push(name: &str, component: &Bytes) -> Operation {
    Operation::PushRecipe {
        name: name.into(),
        digest: RecipeDigest::of(component),
        version: None,
        exports: Default::default(),
    }
}

fn there(bytes: u64) -> Outcome {
    Outcome::Uploaded { bytes }
}

#[test]
fn two_that_upload_the_same_go_on_with_each_others_pieces() {
    let mut world = World::new();
    let component = Bytes::from_static(b"a component");
    let digest = RecipeDigest::of(&component);
    let missing = Outcome::Refused(Refusal::NoComponent(digest));
    assert_eq!(world.ask(NOBODY, push("one", &component)), missing);
    assert_eq!(world.ask(NOBODY, piece(&component, 0, 4)), there(4));
    assert_eq!(
        world.ask(NOBODY, piece(&component, 0, 6)),
        there(4),
        "sent again"
    );
    assert_eq!(
        world.ask(NOBODY, piece(&component, 6, 8)),
        there(4),
        "too early"
    );
    assert_eq!(world.ask(NOBODY, push("one", &component)), missing);
    // A part of the first one's pieces, and of the other's.
    assert_eq!(world.ask(NOBODY, piece(&component, 4, 9)), there(9));
    assert_eq!(world.ask(NOBODY, piece(&component, 9, 11)), there(11));
    let pushed = Outcome::Pushed(digest);
    assert_eq!(world.ask(NOBODY, push("one", &component)), pushed);
    let kept = |world: &World| world.replica.component(&digest).map(|it| it.joined());
    assert_eq!(kept(&world), Some(component.clone()));
    assert_eq!(world.replica.uploads().count(), 0);

    // What is kept is not uploaded again, and goes with its last name.
    assert_eq!(world.ask(NOBODY, piece(&component, 0, 4)), there(11));
    assert_eq!(world.ask(NOBODY, push("two", &component)), pushed);
    for (name, left) in [("one", Some(component.clone())), ("two", None)] {
        let remove = Operation::RemoveRecipe {
            name: name.into(),
            digest: None,
        };
        assert_eq!(world.ask(NOBODY, remove), Outcome::Removed);
        assert_eq!(kept(&world), left);
    }
}

#[test]
fn c2_an_upload_that_nobody_goes_on_with_is_dropped() {
    let mut world = World::new();
    world.with_bounds(Bounds::default());
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    let patience_ms = Bounds::default().upload_patience_ms;
    world.ask(NOBODY, piece(&one, 0, 1));
    world.step(&Step::Pass(patience_ms / 2));
    world.ask(NOBODY, piece(&one, 1, 2));
    world.ask(NOBODY, piece(&two, 0, 1));
    world.step(&Step::Pass(patience_ms - 1));
    assert_eq!(world.replica.uploads().count(), 2);
    // Also under a leader that has not seen its pieces.
    world.open_epoch();
    world.step(&Step::Pass(1));
    assert_eq!(world.replica.uploads().count(), 0);
    assert_eq!(world.replica.counts().upload_bytes, 0);
    // It begins anew.
    assert_eq!(world.ask(NOBODY, piece(&one, 2, 3)), there(0));
    assert_eq!(world.ask(NOBODY, piece(&one, 0, 3)), there(3));
}

#[test]
fn c2_uploads_components_and_names_are_bounded_in_count_and_bytes() {
    let few = Bounds {
        uploads: 2,
        upload_bytes: 10,
        components: 3,
        component_bytes: 20,
        recipes: 3,
        ..Bounds::default()
    };
    let component = |byte: u8, bytes: usize| Bytes::from(vec![byte; bytes]);
    let mut world = World::new();
    world.with_bounds(few);
    let bound = |world: &mut World, operation| bound_of(world.ask(NOBODY, operation));
    // Counted with what they will have.
    world.ask(NOBODY, piece(&component(0, 8), 0, 1));
    assert_eq!(
        bound(&mut world, piece(&component(1, 3), 0, 1)),
        "upload-bytes"
    );
    world.ask(NOBODY, piece(&component(1, 2), 0, 2));
    assert_eq!(bound(&mut world, piece(&component(2, 1), 0, 1)), "uploads");
    assert_eq!(world.ask(NOBODY, piece(&component(0, 8), 1, 8)), there(8));
    for (byte, bytes) in [(0, 8), (1, 2)] {
        let whole = component(byte, bytes);
        world.ask(NOBODY, push(&format!("r{byte}"), &whole));
    }
    assert_eq!(world.replica.components().count(), 2);
    world.ask(NOBODY, piece(&component(2, 9), 0, 9));
    assert_eq!(
        bound(&mut world, piece(&component(3, 1), 0, 1)),
        "components"
    );
    world.ask(NOBODY, push("r0", &component(2, 9)));
    // The one that had the name before stays beside it until it is removed.
    assert_eq!(world.replica.components().count(), 3);
    let remove = Operation::RemoveRecipe {
        name: "r0".into(),
        digest: Some(RecipeDigest::of(&component(0, 8))),
    };
    assert_eq!(world.ask(NOBODY, remove), Outcome::Removed);
    assert_eq!(world.replica.components().count(), 2);
    assert_eq!(
        bound(&mut world, piece(&component(3, 10), 0, 1)),
        "component-bytes"
    );
    world.ask(NOBODY, push("r2", &component(2, 9)));
    assert_eq!(bound(&mut world, push("r3", &component(2, 9))), "recipes");
}

#[test]
fn pieces_that_fit_nowhere_are_refused() {
    let mut world = World::new();
    let component = Bytes::from_static(b"component");
    let whole = |bytes, piece: Bytes| Operation::UploadPiece {
        digest: RecipeDigest::of(&component),
        bytes,
        offset: 0,
        piece,
    };
    let large = Bytes::from(vec![0; MAX_PIECE_BYTES + 1]);
    for wrong in [
        whole(9, Bytes::new()),
        whole(8, component.clone()),
        whole(1 << 20, large),
        whole(MAX_COMPONENT_BYTES as u64 + 1, component.clone()),
    ] {
        let outcome = world.ask(NOBODY, wrong);
        let refused = matches!(outcome, Outcome::Refused(Refusal::BadArguments(_)));
        assert!(refused, "{outcome:?}");
    }
    assert_eq!(world.ask(NOBODY, piece(&component, 0, 4)), there(4));
    let outcome = world.ask(NOBODY, whole(10, component.slice(..4)));
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::BadArguments(_))),
        "{outcome:?}"
    );
}

#[test]
fn n2_a_piece_holds_up_nothing_and_an_upload_is_in_snapshots() {
    let mut world = World::new();
    let component = Bytes::from(vec![7; 3 * MAX_PIECE_BYTES]);
    for part in 0..3 {
        let (from, to) = (part * MAX_PIECE_BYTES, (part + 1) * MAX_PIECE_BYTES);
        if part == 1 {
            world.step(&Step::BeginSnapshot);
        }
        world.ask(NOBODY, piece(&component, from, to));
    }
    world.ask(NOBODY, push("one", &component));
    // Each entry is a piece's, so others' stand between.
    world.step(&Step::SnapshotChunk);
    world.finish();
}
