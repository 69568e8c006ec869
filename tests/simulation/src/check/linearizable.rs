//! Linearizability of one register: is there an order of its operations, each between its being asked and
//! its being answered, in which every answer is right?
//!
//! Wing and Gong's search, with Lowe's memory of the states that were tried before. An operation whose answer
//! is not known may have been done at any time after it was asked, or never.

use std::collections::HashSet;

use crate::history::{Ask, Operation, Part, Told};

/// So many states are tried before the search is given up.
const MAX_STATES: usize = 1_000_000;

/// What the search says.
#[derive(Debug)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none: however far one gets, this operation's answer is wrong.
    Not {
        /// The first operation that could not be placed, of the search that got furthest.
        stuck: Option<Operation>,
    },
    /// The search was given up.
    TooManyStates,
}

/// A znode's data and version, if it is there.
type Node = Option<(String, i32)>;

/// A znode, or a pair of them, or a counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Register {
    nodes: [Node; 2],
    value: i64,
}

/// The znode afterwards, and what is told, if it is asked for that.
fn changed(node: &Node, ask: &Ask) -> Result<(Node, Told), Told> {
    let other = |version: &Option<i32>, current: i32| version.is_some_and(|v| v != current);
    match (ask, node) {
        (Ask::Create(data), None) => Ok((Some((data.clone(), 0)), Told::Done)),
        (Ask::Create(_), Some(_)) => Err(Told::Exists),
        (_, None) => Err(Told::NoNode),
        (Ask::Set(_, expected) | Ask::Delete(expected), Some((_, version)))
            if other(expected, *version) =>
        {
            Err(Told::BadVersion)
        }
        (Ask::Set(data, _), Some((_, version))) => Ok((
            Some((data.clone(), version + 1)),
            Told::Version(version + 1),
        )),
        (Ask::Delete(_), Some(_)) => Ok((None, Told::Done)),
        (Ask::Get | Ask::GetOf(_) | Ask::Together(..) | Ask::Add(_), Some((data, version))) => {
            Err(Told::Data(data.clone(), *version))
        }
    }
}

impl Register {
    /// The register afterwards, and what is told.
    fn step(&self, ask: &Ask) -> (Register, Told) {
        let mut after = self.clone();
        let told = match ask {
            Ask::Add(amount) => {
                after.value += amount;
                Told::Value(after.value)
            }
            Ask::Together(data, parts) => match after.together(data, parts) {
                Ok(versions) => Told::Together(versions),
                Err(refused) => return (self.clone(), refused),
            },
            Ask::Create(_) | Ask::Set(..) | Ask::Delete(_) | Ask::Get => after.change(0, ask),
            Ask::GetOf(place) => after.change(*place, ask),
        };
        (after, told)
    }

    fn change(&mut self, place: usize, ask: &Ask) -> Told {
        match changed(&self.nodes[place], ask) {
            Ok((node, told)) => {
                self.nodes[place] = node;
                told
            }
            Err(told) => told,
        }
    }

    /// Each part sees what those before it have done.
    fn together(&mut self, data: &str, parts: &[Part]) -> Result<Vec<Option<i32>>, Told> {
        let mut versions = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let refused = |told| Told::Refused(number, Box::new(told));
            let (place, ask) = match part {
                Part::Create(place) => (*place, Ask::Create(data.to_owned())),
                Part::Set(place, version) => (*place, Ask::Set(data.to_owned(), *version)),
                Part::Delete(place, version) => (*place, Ask::Delete(*version)),
                Part::Check(place, expected) => {
                    match &self.nodes[*place] {
                        None => return Err(refused(Told::NoNode)),
                        Some((_, version)) if version != expected => {
                            return Err(refused(Told::BadVersion));
                        }
                        Some(_) => versions.push(None),
                    }
                    continue;
                }
            };
            let (node, told) = changed(&self.nodes[place], &ask).map_err(refused)?;
            self.nodes[place] = node;
            versions.push(match told {
                Told::Version(version) => Some(version),
                _ => None,
            });
        }
        Ok(versions)
    }
}

/// A set of operations, by their places.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    fn flip(&mut self, place: usize) {
        self.0[place / 64] ^= 1 << (place % 64);
    }
}

/// Searches for an order.
pub fn check(operations: &[Operation]) -> Verdict {
    let mut all: Vec<&Operation> = operations.iter().collect();
    all.sort_by_key(|operation| operation.asked);
    let known = all.iter().filter(|one| one.told.is_some()).count();
    let mut placed = Placed(vec![0; all.len().div_ceil(64)]);
    let mut tried: HashSet<(Placed, Register)> = HashSet::new();
    let mut register = Register::default();
    // What was placed, with the register before it; and where to go on from, once it was taken back.
    let mut trail: Vec<(usize, Register)> = Vec::new();
    let (mut from, mut placed_known, mut furthest) = (0, 0, 0);
    let mut stuck = None;
    // All before this place are placed.
    let mut low = 0;
    loop {
        if placed_known == known {
            return Verdict::Linearizable;
        }
        while low < all.len() && placed.has(low) {
            low += 1;
        }
        // Whoever is placed next was asked before the first answer of those that are not placed.
        let (mut first_answer, mut first_answered) = (u64::MAX, None);
        let mut candidates = Vec::new();
        for place in (low..all.len()).filter(|place| !placed.has(*place)) {
            if all[place].asked >= first_answer {
                break;
            }
            candidates.push(place);
            if let Some((at, _)) = &all[place].told
                && *at < first_answer
            {
                (first_answer, first_answered) = (*at, Some(place));
            }
        }
        let next = candidates
            .into_iter()
            .filter(|place| *place >= from && all[*place].asked < first_answer)
            .find_map(|place| {
                let (after, told) = register.step(&all[place].ask);
                let expected = all[place].told.as_ref().map(|(_, told)| told);
                if expected.is_some_and(|expected| *expected != told) {
                    return None;
                }
                let mut with = placed.clone();
                with.flip(place);
                tried
                    .insert((with.clone(), after.clone()))
                    .then_some((place, with, after))
            });
        if tried.len() > MAX_STATES {
            return Verdict::TooManyStates;
        }
        if let Some((place, with, after)) = next {
            trail.push((place, std::mem::replace(&mut register, after)));
            placed = with;
            placed_known += usize::from(all[place].told.is_some());
            from = 0;
            continue;
        }
        if stuck.is_none() || placed_known > furthest {
            furthest = placed_known;
            stuck = first_answered;
        }
        let Some((place, before)) = trail.pop() else {
            let stuck = stuck.map(|place| all[place].clone());
            return Verdict::Not { stuck };
        };
        placed.flip(place);
        placed_known -= usize::from(all[place].told.is_some());
        register = before;
        from = place + 1;
        low = low.min(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(ask: Ask, asked: u64, told: Option<(u64, Told)>) -> Operation {
        Operation {
            client: 1,
            register: "/k".into(),
            ask,
            asked,
            told,
        }
    }

    fn create(value: &str) -> Ask {
        Ask::Create(value.into())
    }

    fn data(value: &str, version: i32) -> Told {
        Told::Data(value.into(), version)
    }

    fn linearizable(operations: &[Operation]) -> bool {
        matches!(check(operations), Verdict::Linearizable)
    }

    #[test]
    fn a_read_sees_what_was_acknowledged_before_it_was_asked() {
        let write = operation(create("a"), 0, Some((1, Told::Done)));
        let read = |told| operation(Ask::Get, 2, Some((3, told)));
        assert!(linearizable(&[write.clone(), read(data("a", 0))]));
        assert!(!linearizable(&[write.clone(), read(Told::NoNode)]));
        assert!(!linearizable(&[write, read(data("b", 0))]));
    }

    #[test]
    fn operations_at_the_same_time_may_have_either_order() {
        let write = operation(create("a"), 0, Some((3, Told::Done)));
        for told in [Told::NoNode, data("a", 0)] {
            let read = operation(Ask::Get, 1, Some((2, told)));
            assert!(linearizable(&[write.clone(), read]));
        }
    }

    #[test]
    fn what_nobody_knows_of_may_have_been_done_once_or_never() {
        let write = operation(create("a"), 0, None);
        for told in [Told::NoNode, data("a", 0)] {
            let read = operation(Ask::Get, 1, Some((2, told)));
            assert!(linearizable(&[write.clone(), read]));
        }
        let seen = operation(Ask::Get, 1, Some((2, data("a", 0))));
        let gone = operation(Ask::Get, 3, Some((4, Told::NoNode)));
        assert!(!linearizable(&[write, seen, gone]));
    }

    #[test]
    fn a_set_that_is_done_twice_is_seen() {
        let write = operation(create("a"), 0, Some((1, Told::Done)));
        let set = operation(Ask::Set("b".into(), None), 2, Some((3, Told::Version(1))));
        let read = operation(Ask::Get, 4, Some((5, data("b", 2))));
        assert!(!linearizable(&[write, set, read]));
    }

    #[test]
    fn what_is_done_together_is_done_as_one() {
        let both = |asked, told: Told| {
            let parts = vec![Part::Create(0), Part::Create(1)];
            operation(
                Ask::Together("b".into(), parts),
                asked,
                Some((asked + 1, told)),
            )
        };
        let made = both(0, Told::Together(vec![None, None]));
        let read =
            |place, asked, told| operation(Ask::GetOf(place), asked, Some((asked + 1, told)));
        assert!(linearizable(&[made.clone(), read(1, 2, data("b", 0))]));
        assert!(!linearizable(&[made.clone(), read(1, 2, Told::NoNode)]));
        let half = [read(0, 1, data("b", 0)), read(1, 3, Told::NoNode)];
        let slow = operation(
            made.ask.clone(),
            0,
            Some((9, Told::Together(vec![None, None]))),
        );
        assert!(!linearizable(&[&[slow][..], &half].concat()));
        let refused = both(2, Told::Refused(0, Box::new(Told::Exists)));
        assert!(linearizable(&[made.clone(), refused]));
        let parts = vec![Part::Delete(0, None), Part::Set(1, Some(7))];
        let ask = Ask::Together("c".into(), parts);
        let told = Told::Refused(1, Box::new(Told::BadVersion));
        let refused = operation(ask, 2, Some((3, told)));
        assert!(linearizable(&[
            made.clone(),
            refused.clone(),
            read(0, 4, data("b", 0))
        ]));
        assert!(!linearizable(&[made, refused, read(0, 4, Told::NoNode)]));
    }

    #[test]
    fn a_counter_gives_each_value_once() {
        let add =
            |asked, value| operation(Ask::Add(1), asked, Some((asked + 10, Told::Value(value))));
        assert!(linearizable(&[add(0, 2), add(1, 1), add(2, 3)]));
        assert!(!linearizable(&[add(0, 1), add(1, 1)]));
        assert!(!linearizable(&[add(0, 1), add(1, 3)]));
        assert!(linearizable(&[
            add(0, 1),
            operation(Ask::Add(1), 1, None),
            add(2, 3)
        ]));
    }
}
