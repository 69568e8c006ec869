//! What an author says must hold, whatever happens: read from a file, and checked while calls run.
//!
//! Each kind of property is a [`Rule`], which is told of calls in the order of their transactions. What no
//! author has to say is checked always: no run traps, no call is stuck, and calls do not wake each other
//! for ever.

mod file;

mod call;

mod gates;
mod grows;
mod holds;
mod meets;
mod moves;
mod paces;
mod shares;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use quorate_model::call::{Acknowledgement, CallRequest, Ending};
use quorate_model::id::{CallId, SessionId, Timestamp};
use quorate_model::path::ZnodePath;
use quorate_model::run::RunEnding;
use quorate_sandbox::Interface;
use serde_json::Value;

use crate::scenario::{Event, Scene};
use crate::words::words;

use call::Call;
pub(crate) use call::{arguments, field};
use file::{Always, Operations};
pub(crate) use file::{Failure, Properties, parse};

/// How many parked calls are run on trial after one step.
const MAX_REHEARSED: usize = 100;

/// How many of its results a session can use in later calls.
const MAX_RESULTS: usize = 20;

/// How many violations one scenario tells.
const MAX_VIOLATIONS: usize = 20;

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which property, by the name that it has in the file.
    pub property: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VIOLATED {}: {}", self.property, self.what)
    }
}

/// What became of the calls of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that ran.
    pub called: u64,
    /// Those that returned at once.
    pub at_once: u64,
    /// Those that returned after they had waited.
    pub later: u64,
    /// Those that were refused by the recipe, or failed.
    pub refused: u64,
}

/// One kind of property. It gives what does not hold any more, for people.
trait Rule {
    fn name(&self) -> &'static str;
    /// A call has run for the first time.
    fn called(&mut self, _call: &Call) {}
    /// It has its answer: the result if it returned, none if it ended otherwise.
    fn ended(&mut self, call: &Call, result: Option<&Value>, now: Timestamp) -> Vec<String>;
    fn session_ended(&mut self, _session: SessionId) {}
    /// All that a step brings about is done; `waiting` are the parked calls, the oldest first.
    fn settled(&mut self, _waiting: &[&Call], _now: Timestamp) -> Vec<String> {
        Vec::new()
    }
}

/// Checks the properties of one mount.
pub(crate) struct Checker {
    mount: ZnodePath,
    interface: Arc<Interface>,
    rules: Vec<Box<dyn Rule>>,
    always: Vec<Always>,
    may_be_stuck: BTreeSet<usize>,
    may_trap: BTreeSet<usize>,
    leaves_nothing: bool,
    /// Calls that have begun and not ended.
    open: BTreeMap<CallId, Call>,
    begun: u64,
    /// What each session was given, the last [`MAX_RESULTS`] of it.
    results: BTreeMap<SessionId, Vec<Value>>,
    violations: Vec<Violation>,
    tallies: Vec<Tally>,
}

impl Checker {
    /// For the recipe that is mounted there.
    ///
    /// # Errors
    /// If the properties speak of operations, parameters or results that the recipe does not have.
    pub(crate) fn new(
        properties: &Properties,
        scene: &Scene<'_>,
        mount: &ZnodePath,
    ) -> Result<Checker> {
        let interface = scene.interface(mount)?;
        let mut rules: Vec<Box<dyn Rule>> = Vec::new();
        for holds in &properties.holds {
            let rule = holds::Rule::new(holds, &interface).context("[[holds]]")?;
            rules.push(Box::new(rule));
        }
        for moves in &properties.moves {
            let rule = moves::Rule::new(moves, &interface).context("[[moves]]")?;
            rules.push(Box::new(rule));
        }
        for grows in &properties.grows {
            let rule = grows::Rule::new(grows, &interface).context("[[grows]]")?;
            rules.push(Box::new(rule));
        }
        for gates in &properties.gates {
            let rule = gates::Rule::new(gates, &interface).context("[[gates]]")?;
            rules.push(Box::new(rule));
        }
        for meets in &properties.meets {
            let rule = meets::Rule::new(meets, &interface).context("[[meets]]")?;
            rules.push(Box::new(rule));
        }
        for shares in &properties.shares {
            let rule = shares::Rule::new(shares, &interface).context("[[shares]]")?;
            rules.push(Box::new(rule));
        }
        for paces in &properties.paces {
            let rule = paces::Rule::new(paces, &interface).context("[[paces]]")?;
            rules.push(Box::new(rule));
        }
        let exempt =
            |operations: &Operations| operations.places(&interface).map(BTreeSet::from_iter);
        Ok(Checker {
            mount: mount.clone(),
            rules,
            always: properties.always.clone(),
            may_be_stuck: exempt(&properties.may_be_stuck).context("may-be-stuck")?,
            may_trap: exempt(&properties.may_trap).context("may-trap")?,
            leaves_nothing: properties.leaves_nothing,
            open: BTreeMap::new(),
            begun: 0,
            results: BTreeMap::new(),
            violations: Vec::new(),
            tallies: vec![Tally::default(); interface.operations.len()],
            interface,
        })
    }

    /// What is checked, for people.
    pub(crate) fn names(&self) -> String {
        let mut names: Vec<&str> = self.rules.iter().map(|rule| rule.name()).collect();
        names.extend(self.always.first().map(|_| "always"));
        names.extend(self.leaves_nothing.then_some("leaves-nothing"));
        names.extend(["stuck", "trap", "endless"]);
        names.dedup();
        names.join(", ")
    }

    /// What a session was given, the last one last.
    pub(crate) fn results(&self, session: SessionId) -> &[Value] {
        self.results.get(&session).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// By operation: what became of its calls.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = (&str, Tally)> {
        let names = self
            .interface
            .operations
            .iter()
            .map(|operation| &*operation.name);
        names.zip(self.tallies.iter().copied())
    }

    /// Takes note of what a step brought about; gives what does not hold any more.
    pub(crate) fn check(
        &mut self,
        scene: &mut Scene<'_>,
        events: &[Event],
        is_settled: bool,
    ) -> Result<Vec<Violation>> {
        let mut found = Vec::new();
        for event in events {
            self.note(scene, event, &mut found);
        }
        self.open.values_mut().for_each(|call| call.waited = true);
        if is_settled {
            self.settled(scene, &mut found)?;
        }
        found.retain(|violation| !self.violations.contains(violation));
        found.truncate(MAX_VIOLATIONS.saturating_sub(self.violations.len()));
        self.violations.extend(found.iter().cloned());
        Ok(found)
    }

    fn note(&mut self, scene: &Scene<'_>, event: &Event, found: &mut Vec<Violation>) {
        match event {
            Event::Called {
                id,
                mount,
                operation,
                arguments,
            } => {
                let Ok(place) = self.interface.find(operation) else {
                    return;
                };
                if *mount != self.mount {
                    return;
                }
                self.begun += 1;
                let operation = &self.interface.operations[place];
                let call = Call::new(
                    *id,
                    &scene.call(*id),
                    self.begun,
                    place,
                    operation,
                    arguments,
                );
                self.tallies[place].called += 1;
                self.rules.iter_mut().for_each(|rule| rule.called(&call));
                self.open.insert(*id, call);
            }
            Event::Parked(id) => {
                if let Some(call) = self.open.get_mut(id) {
                    call.parks_again = None;
                }
            }
            Event::Ended { id, ending } => {
                let Some(call) = self.open.remove(id) else {
                    return;
                };
                let result: Option<Value> = match ending {
                    Ending::Returned(result) => serde_json::from_str(result).ok(),
                    _ => None,
                };
                let tally = &mut self.tallies[call.operation];
                match ending {
                    Ending::Returned(_) if call.waited => tally.later += 1,
                    Ending::Returned(_) => tally.at_once += 1,
                    Ending::Refused(_) | Ending::Failed(_) => tally.refused += 1,
                    Ending::Trapped(_) | Ending::Exceeded { .. }
                        if !self.may_trap.contains(&call.operation) =>
                    {
                        let what = format!("{call}: {ending}");
                        found.push(Violation {
                            property: "trap",
                            what,
                        });
                    }
                    _ => {}
                }
                for rule in &mut self.rules {
                    let property = rule.name();
                    let said = rule.ended(&call, result.as_ref(), scene.now);
                    found.extend(said.into_iter().map(|what| Violation { property, what }));
                }
                if let Some(result) = result {
                    let results = self.results.entry(id.session).or_default();
                    results.push(result);
                    if results.len() > MAX_RESULTS {
                        results.remove(0);
                    }
                }
            }
            Event::SessionEnded(session) => {
                self.open.retain(|id, _| id.session != *session);
                self.rules
                    .iter_mut()
                    .for_each(|rule| rule.session_ended(*session));
            }
        }
    }

    /// Whether a call waits that would not, were it woken. One that goes on also right behind its last run does not
    /// look whether its turn has come: nothing can be told of it.
    fn find_stuck(&mut self, scene: &mut Scene<'_>, found: &mut Vec<Violation>) {
        let exempt = &self.may_be_stuck;
        let waiting = self.open.values_mut();
        let waiting = waiting.filter(|call| !exempt.contains(&call.operation));
        for call in waiting.take(MAX_REHEARSED) {
            if call.parks_again == Some(false) {
                continue;
            }
            let Some(trial) = scene.evaluator.rehearse_parked(call.id) else {
                continue;
            };
            let what = goes_on(trial.ran.ending);
            if call.parks_again.is_none() {
                call.parks_again = Some(what.is_none());
            } else if let Some(what) = what {
                let what = format!(
                    "{call} waits, but {what} if it were run again: it watches nothing of what has changed"
                );
                found.push(Violation {
                    property: "stuck",
                    what,
                });
            }
        }
    }

    fn settled(&mut self, scene: &mut Scene<'_>, found: &mut Vec<Violation>) -> Result<()> {
        if scene.evaluator.has_wakes() {
            let what = "calls wake each other, or themselves, without end".to_owned();
            found.push(Violation {
                property: "endless",
                what,
            });
            return Ok(());
        }
        let mut waiting: Vec<&Call> = self.open.values().collect();
        waiting.sort_by_key(|call| call.age);
        for rule in &mut self.rules {
            let property = rule.name();
            let said = rule.settled(&waiting, scene.now);
            found.extend(said.into_iter().map(|what| Violation { property, what }));
        }
        self.find_stuck(scene, found);
        for always in &self.always {
            if let Some(what) = self.observe(always, scene)? {
                found.push(Violation {
                    property: "always",
                    what,
                });
            }
        }
        if self.leaves_nothing
            && let Some(left) = self.left_over(scene)
        {
            let what = format!("every session has ended, and {left} is left");
            found.push(Violation {
                property: "leaves-nothing",
                what,
            });
        }
        Ok(())
    }

    /// What stands below the mount when nobody is there any more.
    fn left_over(&self, scene: &Scene<'_>) -> Option<ZnodePath> {
        let state = scene.state.read();
        if self.begun == 0 || state.sessions().next().is_some() {
            return None;
        }
        let children = state.children(&self.mount).unwrap_or_default();
        self.mount.child(children.first()?).ok()
    }

    /// What an operation that is asked after each step says that it must not.
    fn observe(&self, always: &Always, scene: &mut Scene<'_>) -> Result<Option<String>> {
        let asked = words(&always.call);
        let Some((operation, arguments)) = asked.split_first() else {
            bail!("[[always]]: `call` names an operation, such as call = \"holder north\"");
        };
        let request = CallRequest {
            key: u64::MAX,
            mount: self.mount.clone(),
            operation: (*operation).to_owned(),
            arguments: self::arguments(arguments),
            timeout_ms: None,
            acknowledged: Acknowledgement::default(),
        };
        let call = &always.call;
        let trial = scene.evaluator.rehearse(&request);
        let result = match trial.map(|trial| trial.ran.ending) {
            Some(RunEnding::Returned(result)) => result,
            Some(RunEnding::BadCall(message)) => bail!("[[always]] call = {call:?}: {message}"),
            other => {
                let other = other.and_then(goes_on);
                let other = other.unwrap_or_else(|| "would wait".into());
                return Ok(Some(format!("{call} {other}")));
            }
        };
        let value: Value = serde_json::from_str(&result).unwrap_or_default();
        Ok((!always.admits(&value)).then(|| format!("{call} returned {result}")))
    }
}

/// What a run on trial would come to, for people; none if it would wait.
fn goes_on(ending: RunEnding) -> Option<String> {
    match ending {
        RunEnding::Parked { .. } | RunEnding::NotReady => None,
        RunEnding::Returned(result) => Some(format!("would return {result}")),
        RunEnding::Failed(error) => Some(format!("would fail with {error}")),
        RunEnding::Refused(reason) => Some(format!("would be refused ({reason})")),
        RunEnding::Trapped(message) | RunEnding::BadCall(message) => {
            Some(format!("would trap ({message})"))
        }
        RunEnding::Exceeded { message, .. } => Some(format!("would exceed a bound ({message})")),
    }
}
