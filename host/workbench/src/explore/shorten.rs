//! A schedule that breaks a property, made as short and as plain as can be found.

use anyhow::Result;

use super::World;
use super::play::Step;

/// How many schedules are played at most to shorten one.
const MAX_ATTEMPTS: usize = 3_000;

/// Up to so many steps, also each pair of them is left out on trial.
const MAX_STEPS_FOR_PAIRS: usize = 24;

/// A part of `steps`, its steps made plainer, that breaks the property too. Greedy: what is found is a
/// schedule of which no step, and no two, can be left out.
pub(super) fn shorten(
    world: &World<'_>,
    steps: &[Step],
    property: &'static str,
    enough: &dyn Fn() -> bool,
) -> Result<Vec<Step>> {
    let mut shortening = Shortening {
        world,
        property,
        enough,
        steps: steps.to_vec(),
        attempts: 0,
    };
    loop {
        let before = shortening.steps.clone();
        shortening.leave_out_runs()?;
        shortening.leave_out_pairs()?;
        shortening.make_plain()?;
        shortening.leave_out_and_make_plain()?;
        if shortening.steps == before {
            return Ok(shortening.steps);
        }
    }
}

struct Shortening<'a> {
    world: &'a World<'a>,
    property: &'static str,
    enough: &'a dyn Fn() -> bool,
    steps: Vec<Step>,
    attempts: usize,
}

impl Shortening<'_> {
    /// Takes `steps` if they break the property; what of them could not be done is left out.
    fn attempt(&mut self, steps: &[Step]) -> Result<bool> {
        if self.attempts >= MAX_ATTEMPTS || (self.enough)() || steps == self.steps {
            return Ok(false);
        }
        self.attempts += 1;
        let played = self.world.play(steps)?;
        let breaks = played
            .violation
            .is_some_and(|violation| violation.property == self.property);
        if breaks {
            self.steps = played.steps;
        }
        Ok(breaks)
    }

    /// Halves, quarters, and so on down to single steps.
    fn leave_out_runs(&mut self) -> Result<()> {
        let mut size = self.steps.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.steps.len() {
                let mut steps = self.steps.clone();
                steps.drain(at..steps.len().min(at + size));
                if !self.attempt(&steps)? {
                    at += size;
                }
            }
            size /= 2;
        }
        Ok(())
    }

    /// Such as a call and what cancels it.
    fn leave_out_pairs(&mut self) -> Result<()> {
        let mut first = 0;
        while first < self.steps.len() && self.steps.len() <= MAX_STEPS_FOR_PAIRS {
            let mut second = first + 1;
            while second < self.steps.len() {
                let mut steps = self.steps.clone();
                steps.remove(second);
                steps.remove(first);
                if !self.attempt(&steps)? {
                    second += 1;
                }
            }
            first += 1;
        }
        Ok(())
    }

    /// Such as the first of two calls, where the second then has to ask for one less.
    fn leave_out_and_make_plain(&mut self) -> Result<()> {
        let mut left_out = 0;
        'steps: while left_out < self.steps.len() && self.steps.len() <= MAX_STEPS_FOR_PAIRS {
            for at in (0..self.steps.len()).filter(|at| *at != left_out) {
                for plainer in self.plainer(at) {
                    let mut steps = self.steps.clone();
                    steps[at] = plainer;
                    steps.remove(left_out);
                    if self.attempt(&steps)? {
                        continue 'steps;
                    }
                }
            }
            left_out += 1;
        }
        Ok(())
    }

    /// First choices, the first call of an operation, one session that expires instead of a client that is gone, first clients.
    fn make_plain(&mut self) -> Result<()> {
        let mut at = 0;
        // An attempt may shorten the schedule.
        while at < self.steps.len() {
            for plainer in self.plainer(at) {
                if at < self.steps.len() {
                    let mut steps = self.steps.clone();
                    steps[at] = plainer;
                    self.attempt(&steps)?;
                }
            }
            at += 1;
        }
        let mut steps = self.steps.clone();
        for step in &mut steps {
            if let Step::Call { choices, .. } = step {
                choices.fill(0);
            }
        }
        self.attempt(&steps)?;
        let mut order: Vec<usize> = Vec::new();
        let mut steps = self.steps.clone();
        for client in steps.iter_mut().filter_map(Step::client) {
            let place = order.iter().position(|known| known == client);
            *client = place.unwrap_or_else(|| {
                order.push(*client);
                order.len() - 1
            });
        }
        self.attempt(&steps)?;
        Ok(())
    }

    /// What may stand in a step's place, the plainest last.
    fn plainer(&self, at: usize) -> Vec<Step> {
        let mut plainer = Vec::new();
        match &self.steps[at] {
            Step::Call {
                client,
                call,
                choices,
            } => {
                let calls = &self.world.calls;
                for place in 0..choices.len() {
                    let mut choices = choices.clone();
                    choices[place] = 0;
                    plainer.push(Step::Call {
                        client: *client,
                        call: *call,
                        choices,
                    });
                }
                plainer.push(Step::Call {
                    client: *client,
                    call: *call,
                    choices: vec![0; choices.len()],
                });
                let same = |other: &usize| calls[*other].operation() == calls[*call].operation();
                if let Some(first) = (0..*call).find(same) {
                    let count = calls[first].choices().count();
                    let mut choices = choices.clone();
                    choices.resize(count, 0);
                    for choices in [choices, vec![0; count]] {
                        plainer.push(Step::Call {
                            client: *client,
                            call: first,
                            choices,
                        });
                    }
                }
                for lower in 0..*client {
                    plainer.push(Step::Call {
                        client: lower,
                        call: *call,
                        choices: choices.clone(),
                    });
                }
            }
            Step::Crash { client } => plainer.push(Step::Expire { client: *client }),
            Step::Restart => plainer.push(Step::NewLeader),
            _ => {}
        }
        plainer.retain(|step| *step != self.steps[at]);
        plainer
    }
}
