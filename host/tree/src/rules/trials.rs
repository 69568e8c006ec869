//! Trials: dry runs, shadows and the record of failures. None of them changes anything.

use super::*;
use crate::properties::component;
use crate::{Difference, Observed};
use quorate_model::acl::Identity;
use quorate_model::recipe::{RecipeDigest, Shadow};
use quorate_model::recording::{Question, Reply, Step as Asked};
use quorate_model::run::RunEnding;
use quorate_model::trial::{TOLD_TOO_MUCH, Trial, TrialOf, TrialRequest};

fn path() -> ZnodePath {
    ZnodePath::parse("/m").unwrap()
}

fn try_out(world: &mut World, session: SessionId, of: TrialOf) -> Outcome {
    world.ask(session, Operation::Try(TrialRequest { of, record: true }))
}

fn tried(outcome: Outcome) -> Trial {
    match outcome {
        Outcome::Tried(trial) => *trial,
        other => panic!("{other:?}"),
    }
}

fn call(operation: &str) -> TrialOf {
    TrialOf::Call(CallRequest {
        key: 0,
        mount: path(),
        operation: operation.into(),
        arguments: "x".into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    })
}

fn set(settings: MountSettings) -> Operation {
    Operation::SetMount {
        path: path(),
        settings,
    }
}

#[test]
fn a_dry_run_shows_what_a_call_would_do_and_does_nothing() {
    let (mut world, session) = mounted(true);
    let x = ZnodePath::parse("/m/x").unwrap();
    let trial = tried(try_out(&mut world, session, call("create")));
    assert_eq!(trial.ran.ending, RunEnding::Returned("null".into()));
    let creates = |change: &Change| matches!(change, Change::CreateNode { path, .. } if *path == x);
    assert!(trial.changes.iter().any(creates), "{:?}", trial.changes);
    assert!(world.replica.node(&x).is_none());
    let recording = trial.recording.expect("it was asked for");
    let [
        Asked {
            ask: Question::Create { path, .. },
            answer: Reply::Done,
        },
    ] = &recording.steps[..]
    else {
        panic!("{:?}", recording.steps);
    };
    assert_eq!(path.as_str(), "x");
    assert_eq!(recording.ran, trial.ran);
    // The call itself does exactly that.
    assert!(matches!(
        world.call(session, 1, "create"),
        Outcome::Answered(_)
    ));
    assert!(world.replica.node(&x).is_some());
    // Nothing is kept of a trial that fails either, and it does not count as a failed run.
    let trial = tried(try_out(&mut world, session, call("trap")));
    assert_eq!(trial.ran.ending, RunEnding::Trapped("as asked".into()));
    assert_eq!(world.replica.mount(&self::path()).unwrap().failures, 0);
    assert!(world.evaluator.take_observed().is_empty());
}

#[test]
fn a_parked_call_is_tried_as_if_it_were_woken_and_waits_on() {
    let (mut world, session) = mounted(true);
    world.call(session, 1, "wait");
    let id = CallId { session, key: 1 };
    let before = world.replica.parked(id).unwrap().clone();
    let trial = tried(try_out(&mut world, SessionId::NONE, TrialOf::Parked(id)));
    assert_eq!(trial.ran.ending, RunEnding::Returned("null".into()));
    assert_eq!(world.replica.parked(id), Some(&before));
    let nobody = CallId { session, key: 2 };
    let refused = try_out(&mut world, session, TrialOf::Parked(nobody));
    assert_eq!(refused, Outcome::Refused(Refusal::NoCall { key: 2 }));
}

#[test]
fn a_trial_is_for_those_who_may_call() {
    let (mut world, session) = mounted(true);
    world.call(session, 1, "wait");
    let anna = MountSettings {
        callers: Some(vec![Identity::parse("digest:anna").unwrap()]),
        ..MountSettings::default()
    };
    world.ask(SessionId::NONE, set(anna));
    for of in [call("set"), TrialOf::Parked(CallId { session, key: 1 })] {
        let refused = try_out(&mut world, session, of);
        assert!(
            matches!(refused, Outcome::Refused(Refusal::NoAuth(_))),
            "{refused:?}"
        );
    }
    let mut elsewhere = call("set");
    if let TrialOf::Call(request) = &mut elsewhere {
        request.mount = ZnodePath::parse("/a").unwrap();
    }
    let refused = try_out(&mut world, session, elsewhere);
    assert!(
        matches!(refused, Outcome::Refused(Refusal::NotMounted(_))),
        "{refused:?}"
    );
}

#[test]
fn c5_dry_runs_have_a_share_of_each_second_and_are_refused_beyond_it() {
    let (mut world, session) = mounted(true);
    let rounds = |world: &mut World| {
        let mut tried = 0;
        loop {
            match try_out(world, session, call("create")) {
                Outcome::Tried(_) => tried += 1,
                Outcome::Refused(Refusal::BoundReached { bound, message }) => {
                    assert!(bound == "dry-runs" && message.contains("in a second"));
                    return tried;
                }
                other => panic!("{other:?}"),
            }
            assert!(tried < 10_000, "there is no bound");
        }
    };
    let tried = rounds(&mut world);
    assert!((100..=200).contains(&tried), "{tried}");
    assert_eq!(rounds(&mut world), 0, "in the same second");
    // Calls are not held up by it, and the next second is another.
    assert!(matches!(
        world.call(session, 1, "create"),
        Outcome::Answered(_)
    ));
    world.step(&Step::Pass(1000));
    assert_eq!(rounds(&mut world), tried);
}

#[test]
fn a_failed_run_is_recorded_once_a_second() {
    let (mut world, session) = mounted(false);
    world.set(Bound::Failures, 100);
    world.call(session, 1, "trap-later");
    world.call(session, 2, "trap");
    let failures = |world: &mut World| -> Vec<(RunEnding, bool)> {
        let observed = world.evaluator.take_observed().into_iter();
        observed
            .map(|one| match one {
                Observed::Failure(failed) => {
                    let recording = failed.recording.expect("it is short");
                    (recording.ran.ending, recording.input.memo.is_some())
                }
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let trapped = RunEnding::Trapped("as asked".into());
    assert_eq!(failures(&mut world), [(trapped.clone(), false)]);
    world.call(session, 3, "trap");
    assert_eq!(failures(&mut world), [], "in the same second");
    // One that was woken too, and what becomes of the call is what it would be without.
    world.step(&Step::Pass(1100));
    world.ask(session, create("/m/x"));
    assert_eq!(
        world.ending(session, 1),
        Some(Ending::Trapped("as asked".into()))
    );
    assert_eq!(failures(&mut world), [(trapped, true)]);
}

#[test]
fn a_failed_run_that_was_told_too_much_is_told_of_with_the_reason() {
    let (mut world, session) = mounted(true);
    let failing = CallRequest {
        key: 1,
        mount: path(),
        operation: "trap-told".into(),
        arguments: "x".into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    };
    world.ask(session, Operation::Call(failing));
    let observed = world.evaluator.take_observed();
    let [Observed::Failure(failed)] = &observed[..] else {
        panic!("{} are told", observed.len());
    };
    assert_eq!(failed.recording, Err(TOLD_TOO_MUCH.into()));
    assert_eq!(
        (&failed.mount, failed.operation.as_str()),
        (&path(), "trap-told")
    );
    assert_eq!(
        failed.error,
        RunEnding::Trapped("as asked".into()).to_string()
    );
}

#[test]
fn a_shadow_is_compared_and_changes_nothing() {
    let (mut world, session) = mounted(true);
    world.push(9);
    let shadow = |byte: Option<u8>| {
        let digest = |byte: u8| RecipeDigest::of(&component(byte));
        let shadow = byte.map(|byte| Shadow {
            recipe: "steps".into(),
            digest: Some(digest(byte)),
        });
        set(MountSettings {
            shadow: Some(shadow),
            ..MountSettings::default()
        })
    };
    assert_eq!(
        world.ask(SessionId::NONE, shadow(Some(9))),
        Outcome::MountSet
    );
    let differences = |world: &mut World| -> Vec<Option<Difference>> {
        let observed = world.evaluator.take_observed().into_iter();
        observed
            .map(|one| match one {
                Observed::Shadow(run) => run.difference,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    world.call(session, 1, "create");
    assert_eq!(differences(&mut world), [None]);
    // The shadow has no such operation; the caller is answered by what is mounted.
    assert_eq!(world.call(session, 2, "wait"), Outcome::Parked);
    let [Some(difference)] = &differences(&mut world)[..] else {
        panic!("one, and it differs");
    };
    assert!(difference.mounted.ending.starts_with("parked"));
    assert!(difference.shadow.ending.starts_with("does not fit"));
    // The next run, which is woken, is compared too.
    world.ask(session, Operation::Cancel { key: 2 });
    world.call(session, 3, "watch-all");
    world.call(session, 4, "set");
    assert_eq!(differences(&mut world), [None, None, None]);
    assert_eq!(
        world.ending(session, 3),
        Some(Ending::Returned("null".into()))
    );

    // It is in use as long as it is a shadow.
    let remove = || Operation::RemoveRecipe {
        name: "steps".into(),
        digest: Some(RecipeDigest::of(&component(9))),
    };
    let refused = world.ask(SessionId::NONE, remove());
    assert!(
        matches!(refused, Outcome::Refused(Refusal::RecipeInUse { .. })),
        "{refused:?}"
    );
    assert_eq!(world.ask(SessionId::NONE, shadow(None)), Outcome::MountSet);
    world.call(session, 5, "set");
    assert_eq!(differences(&mut world), []);
    assert_eq!(world.ask(SessionId::NONE, remove()), Outcome::Removed);
    assert_eq!(world.replica.counts().components, 1);
}
