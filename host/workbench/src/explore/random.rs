//! One schedule at random.
//!
//! Each run leaves out some calls, failures and clients (so that others come often), prefers some choices
//! (so that clients meet), and is short at first (so that what is found is).

use anyhow::Result;
use fastrand::Rng;

use super::World;
use super::play::{Played, Player, Step};
use crate::properties::Failure;

/// How often a step that cannot be done is given up for another one, for each step of a schedule.
const TRIES: usize = 8;

/// The longest schedule of the first runs; it grows by one every few runs.
const FIRST_STEPS: usize = 6;
const RUNS_PER_STEP: u64 = 20;

/// How many steps of a hundred are calls.
const CALLS_PERCENT: u32 = 70;

/// Times that pass, in milliseconds, besides the time to the next moment that something waits for.
const PASSES_MS: [u64; 4] = [1, 100, 1_000, 10_000];

/// Plays the run of that number.
pub(super) fn run(world: &World<'_>, seed: u64, number: u64) -> Result<Played> {
    let mut random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    let habits = Habits::new(world, &mut random);
    let grown = usize::try_from(number / RUNS_PER_STEP).unwrap_or(usize::MAX);
    let longest = world
        .properties
        .steps
        .min(FIRST_STEPS.saturating_add(grown));
    let length = random.usize(1.min(longest)..=longest);
    let mut player = world.player()?;
    for _ in 0..length * TRIES {
        if player.is_over() || player.steps() >= length {
            break;
        }
        let step = habits.step(world, &player, &mut random);
        player.play(&step)?;
    }
    player.end()
}

/// What one run does.
struct Habits {
    clients: usize,
    calls: Vec<usize>,
    failures: Vec<Failure>,
    /// For the first choices of a call: one that comes more often.
    favourite: Option<u32>,
}

impl Habits {
    fn new(world: &World<'_>, random: &mut Rng) -> Habits {
        let properties = world.properties;
        let mut calls: Vec<usize> = (0..world.calls.len())
            .filter(|_| random.u8(..) < 200)
            .collect();
        if calls.is_empty() {
            calls = (0..world.calls.len()).collect();
        }
        let failures = properties.failures.iter().copied();
        let most = properties.clients;
        Habits {
            clients: random.usize(1..=most).max(random.usize(1..=most)),
            calls,
            failures: failures.filter(|_| random.bool()).collect(),
            favourite: random.bool().then(|| random.u32(..)),
        }
    }

    fn step(&self, world: &World<'_>, player: &Player<'_>, random: &mut Rng) -> Step {
        let client = random.usize(0..self.clients);
        if self.failures.is_empty() || random.u32(0..100) < CALLS_PERCENT {
            let call = self.calls[random.usize(0..self.calls.len())];
            let choices = world.calls[call]
                .choices()
                .map(|count| match self.favourite {
                    Some(favourite) if random.u8(..) < 160 => favourite % count,
                    _ => random.u32(0..count),
                });
            let choices = choices.collect();
            return Step::Call {
                client,
                call,
                choices,
            };
        }
        match self.failures[random.usize(0..self.failures.len())] {
            Failure::Cancel => Step::Cancel { client },
            Failure::Expire => Step::Expire { client },
            Failure::Crash => Step::Crash { client },
            Failure::Busy => Step::Busy,
            Failure::NewLeader => Step::NewLeader,
            Failure::Restart => Step::Restart,
            Failure::Pass => Step::Pass {
                milliseconds: self.pass(player, random),
            },
        }
    }

    /// Mostly up to the next moment that something waits for, or right before it.
    fn pass(&self, player: &Player<'_>, random: &mut Rng) -> u64 {
        let due = player.scene.next_due();
        match (due, random.u32(0..4)) {
            (Some(milliseconds), 0 | 1) => milliseconds,
            (Some(milliseconds), 2) => milliseconds.saturating_sub(1).max(1),
            _ => PASSES_MS[random.usize(0..PASSES_MS.len())],
        }
    }
}
