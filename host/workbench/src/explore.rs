//! Explore: schedules at random against an author's properties, and the shortest that breaks one.
//!
//! A schedule is a list of steps; played, it is a scenario. Everything follows from the seed: the same seed
//! finds the same schedule.

mod calls;
mod play;
mod random;
mod shorten;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use quorate_model::path::ZnodePath;
use quorate_model::run::RunEnding;

use crate::properties::{Checker, Properties, Tally, Violation, parse};
use crate::scenario::Scene;
use crate::{Shelf, Workbench};

use calls::CallPattern;
use play::{Played, Player, Step};

/// What to explore, and how long.
#[derive(Clone, Debug)]
pub struct Exploration {
    /// The file of properties, as the scenario that is found is to name it.
    pub file: String,
    /// What is mounted, if it is another than the file says.
    pub recipe: Option<String>,
    /// Where the randomness begins.
    pub seed: u64,
    /// At most so many schedules.
    pub runs: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Schedules that were played, without those that were to be shortened.
    pub runs: u64,
    /// Their steps.
    pub steps: u64,
    /// By operation: what became of its calls.
    pub operations: BTreeMap<String, Tally>,
    /// The properties that were checked, for people.
    pub checked: String,
    /// What does not hold.
    pub found: Option<Found>,
}

/// A schedule that breaks a property.
#[derive(Clone, Debug)]
pub struct Found {
    /// What does not hold.
    pub violation: Violation,
    /// Its steps before it was shortened, and after.
    pub steps: (usize, usize),
    /// The schedule as a scenario, with its output.
    pub scenario: String,
}

/// Plays schedules until one breaks a property, all have been played, or it is `enough`.
///
/// # Errors
/// If the file of properties cannot be used with the recipe: what is wrong with it.
pub fn explore(
    workbench: &Workbench,
    shelf: &dyn Shelf,
    exploration: &Exploration,
    enough: &dyn Fn() -> bool,
) -> Result<Explored> {
    let file = &exploration.file;
    let properties = shelf.text(file).and_then(|text| parse(&text));
    let properties = properties.with_context(|| format!("{file} cannot be used"))?;
    let world = World::new(workbench, shelf, &properties, exploration)
        .with_context(|| format!("{file} cannot be used"))?;
    let mut explored = Explored {
        runs: 0,
        steps: 0,
        operations: BTreeMap::new(),
        checked: world.player()?.checked(),
        found: None,
    };
    while explored.runs < exploration.runs && !enough() {
        let played = random::run(&world, exploration.seed, explored.runs)?;
        explored.runs += 1;
        explored.steps += played.steps.len() as u64;
        for (operation, tally) in &played.tallies {
            let sum = explored.operations.entry(operation.clone()).or_default();
            sum.called += tally.called;
            sum.at_once += tally.at_once;
            sum.later += tally.later;
            sum.refused += tally.refused;
        }
        if let Some(violation) = &played.violation {
            let shortest = shorten::shorten(&world, &played.steps, violation.property, enough)?;
            let found = world.play(&shortest)?;
            let violation = found.violation.clone().unwrap_or_else(|| violation.clone());
            explored.found = Some(Found {
                steps: (played.steps.len(), found.steps.len()),
                scenario: world.scenario(&found, &violation, exploration),
                violation,
            });
            break;
        }
    }
    Ok(explored)
}

/// What schedules are played on.
struct World<'a> {
    workbench: &'a Workbench,
    shelf: Remembering<'a>,
    properties: &'a Properties,
    recipe: String,
    mount: ZnodePath,
    calls: Vec<CallPattern>,
}

impl<'a> World<'a> {
    fn new(
        workbench: &'a Workbench,
        shelf: &'a dyn Shelf,
        properties: &'a Properties,
        exploration: &Exploration,
    ) -> Result<World<'a>> {
        let recipe = exploration.recipe.as_ref().or(properties.recipe.as_ref());
        let recipe = recipe.context(
            "it does not say what to mount: write recipe = \"NAME\", or name a .wasm file on the command line",
        )?;
        if properties.calls.is_empty() {
            bail!(
                "it has no calls: write calls = [\"OPERATION ARGUMENT\", …], what clients may call"
            );
        }
        let calls = properties.calls.iter().map(|text| CallPattern::parse(text));
        let world = World {
            workbench,
            shelf: Remembering {
                shelf,
                recipes: RefCell::default(),
            },
            properties,
            recipe: recipe.clone(),
            mount: ZnodePath::parse(&properties.mount)?,
            calls: calls.collect::<Result<_>>()?,
        };
        world.try_calls()?;
        Ok(world)
    }

    /// Whether the recipe has what is to be called.
    fn try_calls(&self) -> Result<()> {
        let mut player = self.player()?;
        for call in &self.calls {
            let Some(request) = call.request(&self.mount) else {
                continue;
            };
            let trial = player.scene.evaluator.rehearse(&request);
            if let Some(RunEnding::BadCall(message)) = trial.map(|trial| trial.ran.ending) {
                bail!("calls: {:?}: {message}", call.text);
            }
        }
        Ok(())
    }

    /// The beginning of every schedule: the recipe is mounted, and checked.
    fn player(&self) -> Result<Player<'_>> {
        let mut scene = Scene::new(self.workbench, &self.shelf)?;
        let mount = format!("mount {} {}", self.mount, self.recipe);
        scene.command(&mount)?;
        if let Some(refusal) = &scene.refused {
            bail!("{mount}: {refusal}");
        }
        let checker = Checker::new(self.properties, &scene, &self.mount)?;
        scene.set_checker(checker);
        let mut player = Player::new(scene, &self.mount, &self.calls, self.properties);
        player.begin()?;
        Ok(player)
    }

    /// Plays what of the steps can be, up to a violation.
    fn play(&self, steps: &[Step]) -> Result<Played> {
        let mut player = self.player()?;
        for step in steps {
            player.play(step)?;
            if player.is_over() {
                break;
            }
        }
        player.end()
    }

    /// What was played, as a file.
    fn scenario(&self, played: &Played, violation: &Violation, from: &Exploration) -> String {
        let mut text = format!(
            "# Found by `quorate recipe explore {} --seed {}`:\n# {violation}\n",
            from.file, from.seed
        );
        let begin = [
            (
                format!("mount {} {}", self.mount, self.recipe),
                "mounted\n".to_owned(),
            ),
            (
                format!("check {} {}", self.mount, from.file),
                format!("checked: {}\n", played.checked),
            ),
        ];
        for (command, output) in begin.iter().chain(&played.commands) {
            // Writing to a string does not fail.
            let _ = write!(text, "> {command}\n{output}\n");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

/// A shelf that reads each recipe once.
struct Remembering<'a> {
    shelf: &'a dyn Shelf,
    recipes: RefCell<HashMap<String, Vec<u8>>>,
}

impl Shelf for Remembering<'_> {
    fn recipe(&self, name: &str) -> Result<Vec<u8>> {
        if let Some(recipe) = self.recipes.borrow().get(name) {
            return Ok(recipe.clone());
        }
        let recipe = self.shelf.recipe(name)?;
        self.recipes
            .borrow_mut()
            .insert(name.to_owned(), recipe.clone());
        Ok(recipe)
    }

    fn text(&self, path: &str) -> Result<String> {
        self.shelf.text(path)
    }
}
