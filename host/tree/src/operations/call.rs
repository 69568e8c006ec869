//! Calls: what may run, how a run's end becomes part of the transaction, how a call ends without a result.

use bytes::Bytes;
use quorate_model::acl::Identity;
use quorate_model::bound::Bound;
use quorate_model::call::{Acknowledgement, Answer, CallRequest, Ending, ParkedCall, Watch};
use quorate_model::id::{CallId, SessionId, Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::Mount;
use quorate_model::run::{Invocation, RunEnding, RunInput, RunWatch};
use quorate_model::write_set::Change;
use quorate_model::znode::Lifetime;

use crate::apply::Records;
use crate::evaluate::Bounds;
use crate::operations::mount::expect_stays;
use crate::operations::znode::delete_node;
use crate::state::Session;
use crate::view::View;

/// How many znodes of its session's lifetime a parked call has created, over all its runs (rule C3).
pub const CREATED_PER_CALL: &str = "created-per-call";

/// The bytes of their paths.
pub const CREATED_BYTES_PER_CALL: &str = "created-bytes-per-call";

/// What a call request comes to before anything runs.
pub(crate) enum Admission {
    /// It is known: this is what there is to say.
    Known(Outcome),
    /// It is new, and may run on this mount.
    New(Mount),
}

/// Rules C1 and C2: a call runs once, and at the bounds nothing is evicted for it. What is known is answered also
/// where nothing new may run.
pub(crate) fn admit(
    view: &View,
    bounds: &Bounds,
    id: CallId,
    session: &Session,
    identities: &[Identity],
    request: &CallRequest,
) -> Result<Admission, Refusal> {
    if request.key == 0 {
        return Err(Refusal::BadArguments("a call's key is at least 1".into()));
    }
    let known = |fingerprint, outcome| {
        if fingerprint != request.fingerprint() {
            return Err(Refusal::KeyReused { key: request.key });
        }
        Ok(Admission::Known(outcome))
    };
    if let Some(answer) = view.answer(id) {
        return known(answer.fingerprint, Outcome::Answered(answer));
    }
    if let Some(parked) = view.parked(id) {
        return known(parked.fingerprint, Outcome::Parked);
    }
    // A request that was stuck somewhere does not run once its client is done with it.
    if request.key <= session.acknowledged {
        return Err(Refusal::Acknowledged { key: request.key });
    }
    let mount = expect_open(view, bounds, identities, request)?;
    expect_room(view, bounds, session, &mount)?;
    Ok(Admission::New(mount))
}

/// The mount, if it takes such a call now.
pub(crate) fn expect_open(
    view: &View,
    bounds: &Bounds,
    identities: &[Identity],
    request: &CallRequest,
) -> Result<Mount, Refusal> {
    if request.arguments.len() > bounds.arguments_bytes {
        return Err(Refusal::BoundReached {
            bound: "argument-bytes".into(),
            message: format!(
                "a call's arguments have at most {} bytes",
                bounds.arguments_bytes
            ),
        });
    }
    let mount = view
        .mount(&request.mount)
        .ok_or_else(|| Refusal::NotMounted(request.mount.clone()))?;
    let mount = expect_stays(mount)?;
    expect_caller(&mount, identities)?;
    match &mount.suspended {
        Some(reason) => Err(Refusal::Suspended {
            mount: mount.path.clone(),
            reason: reason.clone(),
        }),
        None => Ok(mount),
    }
}

/// A mount says who may call.
pub(crate) fn expect_caller(mount: &Mount, identities: &[Identity]) -> Result<(), Refusal> {
    if mount.callers.iter().any(|one| one.admits(identities)) {
        return Ok(());
    }
    Err(Refusal::NoAuth(format!(
        "the mount {} says who may call, and it is none that you have proved to be",
        mount.path
    )))
}

/// What answers and parked calls hold is bounded in the session, at the mount, and in all (rule C2).
fn expect_room(
    view: &View,
    bounds: &Bounds,
    session: &Session,
    mount: &Mount,
) -> Result<(), Refusal> {
    let calls = session.answers + session.parked;
    let (all, parked) = view.held(&mount.path);
    let its_own = "acknowledge answers first";
    let at_mount = "calls that wait at this mount have to end first";
    let others = "others have to acknowledge answers, or their calls to end, first";
    let held = [
        (
            "calls-per-session",
            u64::from(calls),
            u64::from(bounds.calls_per_session),
            its_own,
        ),
        (
            "call-bytes-per-session",
            session.call_bytes,
            bounds.call_bytes_per_session,
            its_own,
        ),
        (
            Bound::ParkedCalls.name(),
            parked.count,
            mount.bounds.of(Bound::ParkedCalls),
            at_mount,
        ),
        (
            Bound::ParkedBytes.name(),
            parked.bytes,
            mount.bounds.of(Bound::ParkedBytes),
            at_mount,
        ),
        ("calls", all.count, bounds.calls, others),
        ("call-bytes", all.bytes, bounds.call_bytes, others),
    ];
    match held.iter().find(|(_, held, most, _)| held >= most) {
        Some((bound, held, _, what_to_do)) => Err(Refusal::BoundReached {
            bound: (*bound).into(),
            message: format!("{held} are held by kept answers and parked calls: {what_to_do}"),
        }),
        None => Ok(()),
    }
}

/// A call on its way through a run, new or woken.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) request: CallRequest,
    pub(crate) identities: Vec<Identity>,
    pub(crate) started: Timestamp,
    /// Of a call that was parked.
    pub(crate) parked: Option<ParkedCall>,
}

impl Call {
    /// One that runs for the first time, now.
    pub(crate) fn first(
        view: &View,
        id: CallId,
        identities: &[Identity],
        request: &CallRequest,
    ) -> Call {
        Call {
            id,
            request: request.clone(),
            identities: identities.to_vec(),
            started: view.moment().time,
            parked: None,
        }
    }

    /// One that was parked.
    pub(crate) fn woken(parked: ParkedCall) -> Call {
        Call {
            id: parked.id,
            request: CallRequest {
                key: parked.id.key,
                mount: parked.mount.clone(),
                operation: parked.operation.clone(),
                arguments: parked.arguments.clone(),
                timeout_ms: None,
                acknowledged: Acknowledgement::default(),
            },
            identities: parked.identities.clone(),
            started: parked.started,
            parked: Some(parked),
        }
    }

    /// What its run is given.
    pub(crate) fn input(&self, mount: &Mount, view: &View) -> RunInput {
        let invocation = match self.id.is_standing() {
            true => Invocation::Standing,
            false => Invocation::Operation {
                name: self.request.operation.clone(),
                arguments: self.request.arguments.clone(),
            },
        };
        RunInput {
            digest: mount.digest,
            invocation,
            session: self.id.session,
            identities: self.identities.clone(),
            now: view.moment().time,
            started: self.started,
            transaction: view.moment().zxid,
            memo: self.parked.as_ref().and_then(|parked| parked.memo.clone()),
            bounds: mount.bounds.clone(),
        }
    }

    /// It has its answer.
    pub(crate) fn answer(&self, view: &mut View, ending: Ending) -> Outcome {
        let fingerprint = match &self.parked {
            Some(parked) => parked.fingerprint,
            None => self.request.fingerprint(),
        };
        let answer = Answer {
            fingerprint,
            ending,
            zxid: view.moment().zxid,
        };
        if self.parked.is_some() {
            view.change(Change::Unpark(self.id));
        }
        view.change(Change::PutAnswer {
            call: self.id,
            answer: answer.clone(),
        });
        Outcome::Answered(answer)
    }

    /// It waits, from this transaction on; or how its run ends instead.
    pub(crate) fn park(
        &self,
        view: &mut View,
        bounds: &Bounds,
        memo: Bytes,
        watches: &[RunWatch],
        created_now: &[ZnodePath],
    ) -> Result<(), RunEnding> {
        let moment = view.moment();
        let absolute = |path| {
            self.request
                .mount
                .below(path)
                .map_err(|error| RunEnding::Trapped(error.to_string()))
        };
        let mut watches = watches
            .iter()
            .map(|watch| {
                Ok(match watch {
                    RunWatch::Node(path) => Watch::Node(absolute(path)?),
                    RunWatch::Children(path) => Watch::Children(absolute(path)?),
                    RunWatch::Subtree(path) => Watch::Subtree(absolute(path)?),
                    RunWatch::Time(at) => Watch::Time(*at),
                })
            })
            .collect::<Result<Vec<Watch>, RunEnding>>()?;
        watches.sort_unstable();
        watches.dedup();
        let mut created = self
            .parked
            .as_ref()
            .map_or_else(Vec::new, |parked| parked.created.clone());
        created.retain(|(path, zxid)| still_there(view, self.id, path, *zxid));
        created.extend(
            created_now
                .iter()
                .filter(|path| still_there(view, self.id, path, moment.zxid))
                .map(|path| (path.clone(), moment.zxid)),
        );
        let bytes: usize = created.iter().map(|(path, _)| path.as_str().len()).sum();
        // All its runs count: what ends it deletes them at once (rule C3).
        let held = [
            (
                CREATED_PER_CALL,
                created.len(),
                bounds.created_per_call,
                "znodes",
            ),
            (
                CREATED_BYTES_PER_CALL,
                bytes,
                bounds.created_bytes_per_call,
                "bytes of paths",
            ),
        ];
        for (bound, held, most, what) in held {
            if held > most {
                let message = format!(
                    "it waits, and has created {held} {what} for its session: {most} is the most, since what ends \
                     it deletes them at once"
                );
                return Err(RunEnding::exceeded(bound, message));
            }
        }
        let parked = match &self.parked {
            Some(before) => ParkedCall {
                memo: Some(memo),
                watches,
                created,
                marked: false,
                suspected: 0,
                retry: None,
                ..before.clone()
            },
            None => ParkedCall {
                id: self.id,
                mount: self.request.mount.clone(),
                operation: self.request.operation.clone(),
                arguments: self.request.arguments.clone(),
                fingerprint: self.request.fingerprint(),
                identities: self.identities.clone(),
                started: self.started,
                deadline: self
                    .request
                    .timeout_ms
                    .map(|timeout| self.started.plus(timeout)),
                age: moment.zxid,
                memo: Some(memo),
                watches,
                created,
                marked: false,
                suspected: 0,
                retry: None,
            },
        };
        view.change(Change::Park(Box::new(parked)));
        Ok(())
    }
}

/// Ends a parked call without a result (rule C3): it is unparked first, so that it is not woken by
/// its own ticket, then what it created for its session goes, then it has its answer.
pub(crate) fn end_without_result(view: &mut View, parked: &ParkedCall, ending: Ending) -> Answer {
    view.change(Change::Unpark(parked.id));
    for (path, created) in &parked.created {
        let deletable = still_there(view, parked.id, path, *created)
            && view.stat(path).is_some_and(|stat| stat.children == 0);
        if deletable {
            delete_node(view, path);
        }
    }
    let answer = Answer {
        fingerprint: parked.fingerprint,
        ending,
        zxid: view.moment().zxid,
    };
    view.change(Change::PutAnswer {
        call: parked.id,
        answer: answer.clone(),
    });
    answer
}

/// Whether a znode that a call's run created is there, still the same one, and still its session's.
fn still_there(view: &View, call: CallId, path: &ZnodePath, created: Zxid) -> bool {
    let lifetime = Lifetime::Session(call.session);
    view.stat(path)
        .is_some_and(|stat| stat.created == created && stat.lifetime == lifetime)
}

/// Forgets this one answer, whatever the client has said, or not said, of others.
pub(crate) fn acknowledge_one(view: &mut View, session: SessionId, key: u64) {
    let Some(before) = view.session(session) else {
        return;
    };
    let known = view.answer(CallId { session, key }).is_some();
    let mark = before.acknowledged.max(key);
    if mark > before.acknowledged || known {
        view.change(Change::Acknowledge {
            session,
            mark,
            forgotten: known.then_some(key).into_iter().collect(),
        });
    }
}

/// Forgets the answers that a client says it is done with, and raises its session's mark.
///
/// An acknowledgement names keys: those up to its mark that it does not await. Whoever is done with a key stays so, and
/// every acknowledgement of a client names only such keys, so each stays true for ever, and any number of them may arrive
/// in any order, late or twice. A late one names nothing that a newer one awaits, for a key is awaited until the client is done with
/// it and never again; keys above its own mark it does not touch; and a key that it still awaits and a newer one does not is
/// gone already, which it cannot undo, as the mark only goes up. So nothing but the mark need be kept of any of them: it says which keys
/// are refused if nobody knows them, and what is known is what was parked or answered and not named since.
///
/// A parked call goes on although it is named: who is done with it cancels it. Its answer stays until the next
/// acknowledgement that names it.
pub(crate) fn acknowledge(view: &mut View, session: SessionId, said: &Acknowledgement) {
    let Some(before) = view.session(session) else {
        return;
    };
    let mut forgotten = Vec::new();
    if before.answers > 0 {
        let answers = view.answers_up_to(session, said.mark());
        let named = answers.iter().filter(|call| said.covers(call.key));
        forgotten.extend(named.map(|call| call.key));
    }
    let mark = before.acknowledged.max(said.mark());
    if mark > before.acknowledged || !forgotten.is_empty() {
        view.change(Change::Acknowledge {
            session,
            mark,
            forgotten,
        });
    }
}
