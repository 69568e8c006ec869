//! Pairs: two znodes that are changed together, by transactions of several parts.

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_wire::{Create, MultiOperation, MultiResult, RequestBody, ResponseBody};

use super::{BAD_VERSION, NO_NODE, NODE_EXISTS, Program, told};
use crate::check::once::of_pair;
use crate::client::Answer;
use crate::history::{Ask, Operation, Part, Told};

/// How many pairs there are.
const PAIRS: u64 = 2;

impl Program {
    /// Changes a pair, or reads one of it.
    pub(super) async fn pair(&mut self, number: u64) {
        let data = format!("{}-{number}", self.id);
        let random = self.client.random();
        let register = format!("/pair{}", random.u64(..PAIRS));
        let ask = match random.u8(..10) {
            0..6 => Ask::Together(data, parts(random)),
            _ => Ask::GetOf(random.usize(..2)),
        };
        let bodies = match &ask {
            Ask::Together(data, parts) => {
                let part = |part: &Part| operation(&register, data, *part);
                vec![RequestBody::Multi(parts.iter().map(part).collect())]
            }
            Ask::GetOf(place) => {
                let path = of_pair(&register, *place);
                let sync = RequestBody::Sync { path: path.clone() };
                vec![sync, RequestBody::GetData { path, watch: false }]
            }
            _ => return,
        };
        let wanted = bodies.len();
        if self.client.connected().await.is_err() {
            return;
        }
        let asked = self.history.event();
        let (answers, ended) = self.client.ask_all(bodies).await;
        let answer = answers.last();
        let answer = answer.filter(|_| answers.len() == wanted && ended.is_ok());
        let told = answer.and_then(|answer| match &ask {
            Ask::Together(..) => told_together(answer),
            _ => told(&ask, answer),
        });
        if told.is_none() {
            self.client.hang_up();
            if matches!(ask, Ask::GetOf(_)) {
                return;
            }
        }
        self.history.operation(Operation {
            client: self.id,
            register,
            ask,
            asked,
            told: told.map(|told| (self.history.event(), told)),
        });
    }
}

/// One part for each of the two, in either order; sometimes one more that only looks.
fn parts(random: &mut fastrand::Rng) -> Vec<Part> {
    let first = random.usize(..2);
    let mut parts = Vec::new();
    if random.u8(..4) == 0 {
        parts.push(Part::Check(random.usize(..2), random.i32(..3)));
    }
    // Mostly the same is done with both, so that they are mostly there together.
    let same = random.u8(..6);
    for place in [first, 1 - first] {
        let version = (random.u8(..4) == 0).then(|| random.i32(..4));
        let kind = match random.u8(..5) {
            0 => random.u8(..6),
            _ => same,
        };
        parts.push(match kind {
            0 | 1 => Part::Create(place),
            2 => Part::Delete(place, version),
            _ => Part::Set(place, version),
        });
    }
    parts
}

fn operation(register: &str, data: &str, part: Part) -> MultiOperation {
    let data = Bytes::copy_from_slice(data.as_bytes());
    let path = |place| of_pair(register, place);
    match part {
        Part::Create(place) => MultiOperation::Create(Create {
            path: path(place),
            data,
            acl: Acl::open(),
            flags: 0,
        }),
        Part::Set(place, version) => MultiOperation::SetData {
            path: path(place),
            data,
            version: version.unwrap_or(-1),
        },
        Part::Delete(place, version) => MultiOperation::Delete {
            path: path(place),
            version: version.unwrap_or(-1),
        },
        Part::Check(place, version) => MultiOperation::Check {
            path: path(place),
            version,
        },
    }
}

/// What the answer to a multi says; none if it says nothing about the pair.
fn told_together(answer: &Answer) -> Option<Told> {
    let ResponseBody::Multi(results) = &answer.body else {
        return None;
    };
    let failed = results
        .iter()
        .enumerate()
        .find_map(|(number, result)| match result {
            MultiResult::Error(error) if *error != 0 => Some((number, *error)),
            _ => None,
        });
    let Some((number, error)) = failed else {
        let version = |result: &MultiResult| match result {
            MultiResult::SetData(stat) => Some(stat.version),
            _ => None,
        };
        return Some(Told::Together(results.iter().map(version).collect()));
    };
    let why = match error {
        NO_NODE => Told::NoNode,
        NODE_EXISTS => Told::Exists,
        BAD_VERSION => Told::BadVersion,
        _ => return None,
    };
    Some(Told::Refused(number, Box::new(why)))
}
