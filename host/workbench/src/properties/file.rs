//! A file of properties: what clients call, what may happen, what must hold.

use anyhow::{Context as _, Result, bail};
use quorate_sandbox::Interface;
use serde::Deserialize;
use serde_json::Value;

use super::call::number;

/// The most clients.
pub(crate) const MAX_CLIENTS: usize = 8;

/// The most steps of one schedule.
pub(crate) const MAX_STEPS: usize = 200;

/// A whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Properties {
    /// What is mounted to explore it.
    pub(crate) recipe: Option<String>,
    /// Where.
    #[serde(default = "default_mount")]
    pub(crate) mount: String,
    /// What is called before anything else.
    #[serde(default)]
    pub(crate) begin: Vec<String>,
    /// What clients may call.
    #[serde(default)]
    pub(crate) calls: Vec<String>,
    /// How many there are.
    #[serde(default = "default_clients")]
    pub(crate) clients: usize,
    /// How many calls of one client may wait at once.
    #[serde(default = "one")]
    pub(crate) waiting: usize,
    /// The longest schedule.
    #[serde(default = "default_steps")]
    pub(crate) steps: usize,
    /// What else may happen.
    #[serde(default = "Failure::all")]
    pub(crate) failures: Vec<Failure>,

    #[serde(default)]
    pub(super) holds: Vec<Holds>,
    #[serde(default)]
    pub(super) moves: Vec<Moves>,
    #[serde(default)]
    pub(super) grows: Vec<Grows>,
    #[serde(default)]
    pub(super) gates: Vec<Gates>,
    #[serde(default)]
    pub(super) meets: Vec<Meets>,
    #[serde(default)]
    pub(super) shares: Vec<Shares>,
    #[serde(default)]
    pub(super) paces: Vec<Paces>,
    #[serde(default)]
    pub(super) always: Vec<Always>,
    /// Whether nothing is left below the mount when every session has ended.
    #[serde(default)]
    pub(crate) leaves_nothing: bool,
    /// Operations whose calls may wait although they could go on.
    #[serde(default)]
    pub(super) may_be_stuck: Operations,
    /// Operations whose runs may trap.
    #[serde(default)]
    pub(super) may_trap: Operations,
}

/// What may happen besides calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Failure {
    /// A client gives up a call that waits.
    Cancel,
    /// A session ends.
    Expire,
    /// A client is gone, and its session ends later.
    Crash,
    /// Time passes: deadlines, leases, sessions of clients that are gone.
    Pass,
    /// Other requests come between what wakes a call and its run.
    Busy,
    /// Another leader.
    NewLeader,
    /// All servers begin again from a snapshot.
    Restart,
}

impl Failure {
    fn all() -> Vec<Failure> {
        use Failure::{Busy, Cancel, Crash, Expire, NewLeader, Pass, Restart};
        vec![Cancel, Expire, Crash, Pass, Busy, NewLeader, Restart]
    }
}

/// Operations take something that is held until it is given back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Holds {
    /// A call of these that gives something has it.
    pub(super) take: Operations,
    /// A call of these gives one of it back: that with the token which it names, if it has a parameter that is called as
    /// the token's field, else one of the session's.
    #[serde(default)]
    pub(super) give: Operations,
    /// The parameter that says what is held, or a list of all that is; without it there is one thing.
    pub(super) by: Option<String>,
    /// The field of the result that says which one it is, of several that are alike: each is held by itself. A parameter of
    /// `give` that is called as this field says which is given back.
    pub(super) each: Option<String>,
    /// How much of it there is.
    #[serde(default = "one_number")]
    pub(super) most: i128,
    /// Operations of `take` whose calls take all that there is.
    #[serde(default)]
    pub(super) whole: Operations,
    /// The parameter that says how much of it a call takes, or gives back; without it one.
    pub(super) weight: Option<String>,
    /// The field of the result that grows from holder to holder.
    pub(super) token: Option<String>,
    /// Whether who asked first gets it first.
    #[serde(default)]
    pub(super) fair: bool,
    /// Whether a session that has it gets it again at once, and has to give it back as often.
    #[serde(default)]
    pub(super) reentrant: bool,
    /// Whether a call of `give` gives back all that the session has of it.
    #[serde(default)]
    pub(super) give_all: bool,
    /// The field of the result that says when it ends by itself, in milliseconds since 1970.
    pub(super) until: Option<String>,
    /// A call of these, which gives such a moment too, moves the end.
    #[serde(default)]
    pub(super) renew: Operations,
    /// Whether it stays with a session that has ended.
    #[serde(default)]
    pub(super) outlives_session: bool,
}

/// Operations put items in, and others take them out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Moves {
    /// A call of these puts an item in.
    pub(super) put: Operations,
    /// Their parameter that is the item.
    pub(super) item: String,
    /// A call of these that gives something takes an item out.
    pub(super) take: Operations,
    /// The field of their result that is the item; without it the result.
    #[serde(default)]
    pub(super) field: String,
    /// The parameter that says which of several places; without it there is one.
    pub(super) by: Option<String>,
    /// Whether items come out in the order in which they were put in.
    #[serde(default)]
    pub(super) ordered: bool,
}

/// An operation's results grow from call to call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Grows {
    /// Of these operations.
    pub(super) result: Operations,
    /// The field that does; without it the result.
    #[serde(default)]
    pub(super) field: String,
    /// The parameter for each of whose values it does by itself; without it all results are one row.
    pub(super) by: Option<String>,
    /// By how much; without it by any amount.
    pub(super) step: Option<i128>,
    /// The parameter that says by how much.
    pub(super) step_by: Option<String>,
}

/// Some operations shut a gate and open it, and who comes to a gate that is shut waits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Gates {
    /// A call of these that returns anything but `false` shuts it.
    pub(super) shut: Operations,
    /// A call of these that returns anything but `false` opens it.
    pub(super) open: Operations,
    /// A call of `open` opens it only if it returns this.
    pub(super) open_at: Option<Value>,
    /// A call of these waits for as long as it is shut.
    pub(super) pass: Operations,
    /// The parameter that says which gate; without it there is one.
    pub(super) by: Option<String>,
}

/// So many begin together and end together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Meets {
    /// A call of these waits until so many have come.
    pub(super) enter: Operations,
    /// Its parameter that says how many.
    pub(super) size: String,
    /// A call of these waits until all of them have called it, or are gone.
    pub(super) leave: Operations,
    /// The parameter that says where; without it there is one place.
    pub(super) by: Option<String>,
}

/// Things are shared out among members: none belongs to two.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Shares {
    /// A call of these is told what its member has.
    pub(super) told: Operations,
    /// The field of their result that lists it; without it the result.
    #[serde(default)]
    pub(super) field: String,
    /// Their parameter that is the member. It is there no longer than its session.
    pub(super) member: String,
    /// A call of these takes the member out.
    #[serde(default)]
    pub(super) leave: Operations,
    /// The parameter that says of what group; without it there is one.
    pub(super) by: Option<String>,
}

/// No more is taken than was there at first and comes with time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Paces {
    /// A call of these that gives something takes some.
    pub(super) take: Operations,
    /// A call has taken some only if it returns this.
    pub(super) taken: Option<Value>,
    /// The parameter that says how much; without it one.
    pub(super) weight: Option<String>,
    /// The parameter that says of what; without it there is one thing.
    pub(super) by: Option<String>,
    /// How much there is at first, and at most.
    pub(super) most: i128,
    /// How much comes in each period, evenly.
    pub(super) refill: i128,
    /// In milliseconds.
    pub(super) period_ms: i128,
}

/// An operation that is asked after each step, and what it may return.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Always {
    /// Operation and arguments.
    pub(super) call: String,
    /// One of these; without it anything but `false`.
    returns: Option<Vec<Value>>,
    /// A number, this or less.
    at_most: Option<i128>,
    /// A number, this or more.
    at_least: Option<i128>,
}

impl Always {
    pub(super) fn admits(&self, result: &Value) -> bool {
        let is_one = match &self.returns {
            Some(values) => values.contains(result),
            None => *result != Value::Bool(false),
        };
        let bounded = self.at_most.is_some() || self.at_least.is_some();
        let fits = number(result).is_some_and(|number| {
            self.at_most.is_none_or(|most| number <= most)
                && self.at_least.is_none_or(|least| number >= least)
        });
        is_one && (fits || !bounded)
    }
}

/// One operation by name, or several.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Operations {
    /// As a string.
    One(String),
    /// As a list.
    Several(Vec<String>),
    #[default]
    #[serde(skip)]
    None,
}

impl Operations {
    fn names(&self) -> &[String] {
        match self {
            Operations::One(name) => std::slice::from_ref(name),
            Operations::Several(names) => names,
            Operations::None => &[],
        }
    }

    /// Their places in the interface.
    pub(super) fn places(&self, interface: &Interface) -> Result<Vec<usize>> {
        let find = |name: &String| interface.find(name).map_err(anyhow::Error::msg);
        self.names().iter().map(find).collect()
    }

    /// Their places; each has the parameters.
    pub(super) fn with_parameters(
        &self,
        interface: &Interface,
        parameters: &[Option<&String>],
    ) -> Result<Vec<usize>> {
        let places = self.places(interface)?;
        for place in &places {
            let operation = &interface.operations[*place];
            let names: Vec<&str> = operation
                .parameters
                .iter()
                .map(|(name, _)| &**name)
                .collect();
            for parameter in parameters.iter().flatten() {
                if !names.contains(&parameter.as_str()) {
                    let operation = &operation.name;
                    bail!(
                        "{operation} has no parameter {parameter:?}; it has {}",
                        if names.is_empty() {
                            "none".into()
                        } else {
                            names.join(", ")
                        }
                    );
                }
            }
        }
        Ok(places)
    }
}

fn default_mount() -> String {
    "/recipe".into()
}

fn default_clients() -> usize {
    3
}

fn default_steps() -> usize {
    30
}

fn one() -> usize {
    1
}

fn one_number() -> i128 {
    1
}

/// Reads a file of properties.
///
/// # Errors
/// If it is none: where, and what is wrong there.
pub(crate) fn parse(text: &str) -> Result<Properties> {
    let properties: Properties = toml::from_str(text).context("it is no file of properties")?;
    if !(1..=MAX_CLIENTS).contains(&properties.clients) {
        bail!("clients = {}: 1 to {MAX_CLIENTS}", properties.clients);
    }
    if !(1..=MAX_STEPS).contains(&properties.steps) {
        bail!("steps = {}: 1 to {MAX_STEPS}", properties.steps);
    }
    if properties.waiting == 0 {
        bail!("waiting = 0: at least one call of a client may wait");
    }
    Ok(properties)
}
