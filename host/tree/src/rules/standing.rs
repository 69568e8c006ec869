//! Standing calls (rule C10).

use super::*;

/// A world with one session, in which the recipe of steps is mounted at `/m`, open, and stands.
fn standing() -> (World, SessionId) {
    let mut world = World::new();
    let asks = [Ask::Open].into_iter().chain(push_of(2));
    for ask in asks.chain([Ask::Mount { sealed: false }]) {
        world.step(&Step::Ask(0, ask));
    }
    let session = world.sessions[0];
    world.ask(session, create("/m/in"));
    (world, session)
}

fn runs(world: &World) -> usize {
    let runs = ZnodePath::parse("/m/runs").unwrap();
    world.replica.node(&runs).map_or(0, |node| node.data.len())
}

fn its_call(world: &World) -> Option<quorate_model::call::ParkedCall> {
    let mount = world.replica.mount(&ZnodePath::parse("/m").unwrap());
    let id = CallId::standing(mount?.mounted);
    world.replica.parked(id).cloned()
}

fn delete(path: &str) -> Operation {
    Operation::Znode(ZnodeOperation::Delete {
        path: ZnodePath::parse(path).unwrap(),
        version: -1,
    })
}

#[test]
fn c10_a_standing_call_runs_behind_its_mount_and_when_its_watch_fires() {
    let (mut world, session) = standing();
    assert_eq!(runs(&world), 1);
    world.ask(session, create("/m/in/1"));
    assert_eq!(runs(&world), 2);
    let call = its_call(&world).unwrap();
    assert_eq!(call.memo.as_deref(), Some(&b"mm"[..]), "it had its memo");
    // A new leader goes on with it, and a mount that is only set anew does not restart it.
    world.open_epoch();
    world.step(&Step::Ask(0, Ask::Mount { sealed: false }));
    assert_eq!(runs(&world), 2);
    world.ask(session, create("/m/in/2"));
    assert_eq!(runs(&world), 3);
    world.ask(session, create("/m/in/end"));
    assert_eq!((runs(&world), its_call(&world)), (4, None), "it returned");
}

#[test]
fn c10_a_failing_standing_call_keeps_its_watches_and_is_tried_again_ever_more_slowly() {
    let (mut world, session) = standing();
    world.set(Bound::Failures, 0);
    let good = its_call(&world).unwrap();
    world.ask(session, create("/m/in/trap"));
    let mut pauses = Vec::new();
    for failures in 1..=9 {
        let failed = its_call(&world).unwrap();
        let retry = failed.retry.unwrap();
        assert_eq!((&failed.watches, &failed.memo), (&good.watches, &good.memo));
        assert_eq!(retry.failures, failures);
        pauses.push(retry.at.0 - world.now.0);
        world.step(&Step::Pass(retry.at.0 - world.now.0 - 1));
        assert_eq!(its_call(&world).unwrap().retry, Some(retry), "not before");
        world.step(&Step::Pass(1));
        world.step(&Step::Pass(0));
    }
    assert_eq!(
        pauses,
        [
            1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000
        ]
    );
    assert_eq!(runs(&world), 1, "nothing of the failed runs stays");
    world.ask(session, delete("/m/in/trap"));
    let call = its_call(&world).unwrap();
    assert_eq!((runs(&world), call.retry), (2, None), "its watch woke it");
}

#[test]
fn c10_a_standing_run_gives_no_znode_the_lifetime_of_a_session() {
    let (mut world, session) = standing();
    world.ask(session, create("/m/in/mine"));
    assert!(its_call(&world).unwrap().retry.is_some());
    let lines = world.evaluator.take_log();
    let told = lines
        .iter()
        .any(|line| line.line.message.contains("has no session"));
    assert!(told, "{lines:?}");
}

#[test]
fn c10_a_standing_call_ends_with_its_mount() {
    let (mut world, session) = standing();
    world.ask(session, unmount());
    assert_eq!(world.replica.parked_calls().count(), 0, "at once");
    world.ask(session, create("/m/in/1"));
    assert_eq!(runs(&world), 1);
    let outcome = world.unmount(session);
    assert_eq!(outcome, Outcome::Unmounted { ended_calls: 0 });
    world.step(&Step::Ask(0, Ask::Mount { sealed: false }));
    assert_eq!(runs(&world), 2, "and another begins with the next");
}

#[test]
fn c10_a_standing_call_that_keeps_failing_suspends_its_mount() {
    let (mut world, session) = standing();
    world.set(Bound::Failures, 3);
    world.ask(session, create("/m/in/trap"));
    for _ in 0..5 {
        world.step(&Step::Pass(60_000));
    }
    let mount = world
        .replica
        .mount(&ZnodePath::parse("/m").unwrap())
        .unwrap();
    let reason = mount.suspended.as_deref().unwrap();
    assert!(
        reason.contains("3 runs") && reason.contains("in/trap"),
        "{reason}"
    );
    world.ask(session, delete("/m/in/trap"));
    assert_eq!(runs(&world), 1);
    world.step(&Step::Ask(0, Ask::Resume));
    assert_eq!(runs(&world), 2);
}

#[test]
fn s5_a_standing_call_over_which_epochs_end_suspends_its_mount() {
    let (mut world, session) = standing();
    let stood = its_call(&world).unwrap().id;
    let wake = request(session, create("/m/in/1"));
    world.evaluator.evaluate_alone(&wake, None, world.now);
    world.propose();
    for _ in 0..3 {
        assert_eq!(world.open_epoch(), Some(stood));
    }
    let suspect = world.open_epoch().unwrap();
    world.evaluator.run_suspect(suspect, world.now);
    world.propose();
    let mount = world
        .replica
        .mount(&ZnodePath::parse("/m").unwrap())
        .unwrap();
    assert!(mount.suspended.as_deref().unwrap().contains("3 epochs"));
    assert_eq!(world.open_epoch(), None, "its mark is nobody's suspect");
}
