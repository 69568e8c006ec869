//! Explore: what holds is not found broken, and what does not is, by the shortest schedule.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use quorate_tests::Standard;
use quorate_workbench::{Exploration, Explored, Shelf, Workbench, differences, explore};

/// The standard recipes, and one file of properties.
struct With<'a>(&'a str);

impl Shelf for With<'_> {
    fn recipe(&self, name: &str) -> Result<Vec<u8>> {
        Standard.recipe(name)
    }

    fn text(&self, _path: &str) -> Result<String> {
        Ok(self.0.to_owned())
    }
}

fn properties(file: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("properties");
    fs::read_to_string(directory.join(file)).expect("it stands there")
}

fn explored(properties: &str, seed: u64, runs: u64) -> Result<Explored> {
    let exploration = Exploration {
        file: "x.toml".into(),
        recipe: None,
        seed,
        runs,
    };
    let workbench = Workbench::new()?;
    explore(&workbench, &With(properties), &exploration, &|| false).context("x")
}

#[test]
fn the_standard_recipes_hold() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("properties");
    for file in fs::read_dir(directory).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let explored = explored(&properties(&file), 1, 300).unwrap();
        if let Some(found) = explored.found {
            panic!("{file}: {}", found.scenario);
        }
        assert_eq!(explored.runs, 300, "{file}");
        // It is worth something only if the calls get through.
        for (operation, tally) in &explored.operations {
            let returned = tally.at_once + tally.later;
            assert!(returned > 0, "{file}: no {operation} returned: {tally:?}");
        }
        let waits = ["acquire", "take"].map(|it| explored.operations.get(it));
        for tally in waits.into_iter().flatten() {
            assert!(tally.later > 3, "{file}: {tally:?}");
        }
    }
}

#[test]
fn every_standard_recipe_has_its_properties() {
    for recipe in quorate_recipes::all() {
        let text = properties(&format!("{}.toml", recipe.name));
        assert!(
            text.contains(&format!("recipe = \"{}\"\n", recipe.name)),
            "{}",
            recipe.name
        );
    }
}

#[test]
fn what_does_not_hold_is_found_shortened_and_can_be_replayed() {
    // The fair lock is reentrant; these properties say that it is not.
    let wrong = properties("fair-lock.toml").replace("reentrant = true", "");
    let (first, again) = (explored(&wrong, 7, 300), explored(&wrong, 7, 300));
    let found = first.unwrap().found.expect("it is reentrant");
    assert_eq!(found.violation.property, "holds");
    assert_eq!(found.steps.1, 2, "{}", found.scenario);
    let commands = found.scenario.lines().filter(|line| line.starts_with('>'));
    let commands: Vec<&str> = commands.collect();
    let begin = [
        "> mount /locks fair-lock",
        "> check /locks x.toml",
        "> session a",
    ];
    assert_eq!(commands[..3], begin);
    assert_eq!(commands.len(), 5, "{}", found.scenario);
    for command in &commands[3..] {
        let plain = ["acquire north", "try-acquire north"];
        let call = command.strip_prefix("> a: call /locks ").unwrap();
        assert!(plain.contains(&call), "{}", found.scenario);
    }
    // The same seed finds the same; the schedule is a scenario that has this output.
    assert_eq!(again.unwrap().found.unwrap().scenario, found.scenario);
    let workbench = Workbench::new().unwrap();
    let replayed = workbench.run(&found.scenario, &With(&wrong)).unwrap();
    assert_eq!(replayed, found.scenario);
    assert!(replayed.contains("\nVIOLATED holds: a@2 "), "{replayed}");
    // Mended, as it were, the output is another, in the last command.
    let mended = properties("fair-lock.toml");
    let replayed = workbench.run(&found.scenario, &With(&mended)).unwrap();
    let differences = differences(&found.scenario, &replayed);
    assert_eq!(differences.len(), 1);
    assert!(differences[0].shown().contains("  - VIOLATED holds"));
}

#[test]
fn a_file_of_properties_that_does_not_fit_says_why() {
    let wrong = |before: &str, after: &str| {
        let text = properties("fair-lock.toml").replace(before, after);
        format!("{:#}", explored(&text, 1, 1).unwrap_err())
    };
    assert!(wrong("by = \"name\"", "by = \"nam\"").contains("acquire has no parameter \"nam\""));
    assert!(
        wrong("give = \"release\"", "give = \"free\"").contains("there is no operation \"free\"")
    );
    assert!(wrong("fair = true", "fare = true").contains("unknown field `fare`"));
    assert!(wrong("release <north|south>", "release").contains("release takes 1 argument"));
    assert!(wrong("recipe = \"fair-lock\"", "").contains("recipe = \"NAME\""));
    assert!(wrong("fair-lock\"", "no-lock\"").contains("no standard recipe no-lock"));
}
