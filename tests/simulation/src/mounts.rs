//! The mounts: which recipes there are, and who mounts them; and one mount that changes while things break, to another
//! version of its recipe and back, to a recipe that its calls do not fit, and away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use quorate::evaluate::administration;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, MountSettings, RecipeDigest};
use quorate_model::request::Operation;
use quorate_sandbox::{PreparedRecipe, Sandbox};
use quorate_tree::RunTree;
use tokio::time::{sleep, timeout};

use crate::server::Host;

/// The recipes that the clients call, and where they are mounted.
const MOUNTS: [(&str, &str); 4] = [
    ("counter", "/counters"),
    ("fair-lock", "/locks"),
    ("queue", "/queues"),
    ("lease", "/leases"),
];

/// The mount that changes.
pub const CHANGING: &str = "/changing";

/// What is mounted there: locks, the same in another component, and what takes other arguments.
const LOCKS: &str = "fair-lock";
const OTHER_LOCKS: &str = "fair-lock-again";
const NO_LOCKS: &str = "lease";

/// How long an answer is waited for, before another server is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Before another try.
const RETRY: Duration = Duration::from_millis(50);

/// Recipes by name.
pub type Recipes = BTreeMap<String, PreparedRecipe>;

/// All that are mounted somewhere.
///
/// # Errors
/// One of them is no recipe.
pub fn recipes(sandbox: &Sandbox<RunTree>) -> anyhow::Result<Recipes> {
    let mut recipes = BTreeMap::new();
    for (name, _) in MOUNTS {
        let standard = quorate_recipes::find(name).context("it is a standard recipe")?;
        recipes.insert(name.to_owned(), sandbox.prepare(standard.wasm)?);
    }
    // A custom section more, without a name and empty: it is another component that does the same.
    let mut again = recipes[LOCKS].component.to_vec();
    again.extend([0, 1, 0]);
    recipes.insert(OTHER_LOCKS.to_owned(), sandbox.prepare(&again)?);
    Ok(recipes)
}

/// Whoever mounts.
pub struct Operator {
    random: fastrand::Rng,
    hosts: Vec<Arc<Host>>,
    recipes: Arc<Recipes>,
    /// When it stops, since the beginning.
    until: Duration,
}

impl Operator {
    /// One that asks these servers to mount these recipes.
    pub fn new(
        seed: u64,
        hosts: Vec<Arc<Host>>,
        recipes: Arc<Recipes>,
        until: Duration,
    ) -> Operator {
        Operator {
            random: fastrand::Rng::with_seed(seed),
            hosts,
            recipes,
            until,
        }
    }

    /// Keeps the recipes and mounts them, and says so. Then the mount that changes does, until it is time to stop.
    pub async fn run(mut self, mounted: Arc<AtomicBool>) -> turmoil::Result {
        let recipes = self.recipes.clone();
        for (name, recipe) in recipes.iter() {
            let interface = &recipe.interface;
            let (version, exports) = (interface.version.clone(), interface.exports());
            for part in Operation::upload(name, &recipe.component, version, exports) {
                self.insist(part).await;
            }
        }
        for (recipe, path) in MOUNTS {
            let mount = self.mount(path, recipe, false)?;
            self.insist(mount).await;
        }
        mounted.store(true, Ordering::SeqCst);
        while turmoil::sim_elapsed().unwrap_or_default() < self.until {
            let pause = self.random.u64(50..1500);
            sleep(Duration::from_millis(pause)).await;
            self.change().await?;
        }
        self.finish().await
    }

    /// Changes what is mounted, as far as one of the servers knows. What was begun before, and given up, goes on first.
    async fn change(&mut self) -> turmoil::Result {
        let Some(now) = self.look() else {
            return Ok(());
        };
        let is = |recipe: &str| {
            let digest = now.as_ref().map(|mount| mount.digest);
            digest == Some(self.digest(recipe))
        };
        let (locks, other_locks) = (is(LOCKS), is(OTHER_LOCKS));
        let choice = self.random.u8(..8);
        let next = match &now {
            None => {
                let recipe = [LOCKS, OTHER_LOCKS][usize::from(choice % 2)];
                self.mount(CHANGING, recipe, false)?
            }
            Some(mount) if unfinished(mount).is_some() && choice.is_multiple_of(2) => {
                unfinished(mount).expect("just looked at")
            }
            Some(mount) if choice < 3 => begin_unmount(mount),
            Some(_) => {
                let recipe = match choice {
                    3 | 4 if locks || other_locks => NO_LOCKS,
                    _ if locks => OTHER_LOCKS,
                    _ => LOCKS,
                };
                self.mount(CHANGING, recipe, true)?
            }
        };
        self.go_through(next).await;
        Ok(())
    }

    /// Nothing is mounted there in the end: calls would wait for ever where something was begun and given up.
    async fn finish(&mut self) -> turmoil::Result {
        let path = ZnodePath::parse(CHANGING)?;
        let begin = Operation::BeginUnmount { path };
        loop {
            let last = self.go_through(begin.clone()).await;
            if let Some(Outcome::Unmounted { .. } | Outcome::Refused(Refusal::NotMounted(_))) = last
            {
                return Ok(());
            }
            sleep(RETRY).await;
        }
    }

    /// What is mounted, as far as one of the servers knows; nothing if it does not run.
    fn look(&mut self) -> Option<Option<Mount>> {
        let path = ZnodePath::parse(CHANGING).expect("a constant");
        let host = self.host();
        let running = host.running.lock();
        let state = running.as_ref()?.state.read();
        Some(state.mount(&path).cloned())
    }

    /// Asks for it and for its next steps, as long as there is one, and it is known what became of the last.
    async fn go_through(&mut self, operation: Operation) -> Option<Outcome> {
        let mut next = operation;
        loop {
            let outcome = self.ask(next.clone()).await?;
            match next.next_step(&outcome) {
                Some(step) => next = step,
                None => return Some(outcome),
            }
        }
    }

    fn digest(&self, recipe: &str) -> RecipeDigest {
        self.recipes[recipe].digest
    }

    fn host(&mut self) -> Arc<Host> {
        self.hosts[self.random.usize(..self.hosts.len())].clone()
    }

    /// To mount a recipe there, or to go on with it there.
    fn mount(&self, path: &str, recipe: &str, upgrade: bool) -> turmoil::Result<Operation> {
        Ok(Operation::Mount {
            path: ZnodePath::parse(path)?,
            recipe: recipe.into(),
            digest: Some(self.digest(recipe)),
            settings: MountSettings::default(),
            upgrade,
        })
    }

    /// Asks one server after the other, until one says that it was done.
    async fn insist(&mut self, operation: Operation) {
        while matches!(
            self.ask(operation.clone()).await,
            None | Some(Outcome::Refused(_))
        ) {
            sleep(RETRY).await;
        }
    }

    /// Asks one of the servers; none if it is not known what became of it.
    async fn ask(&mut self, operation: Operation) -> Option<Outcome> {
        let router = {
            let host = self.host();
            let running = host.running.lock();
            running.as_ref()?.router.clone()
        };
        tracing::info!("asked for {:?}", named(&operation));
        let asked = router.ask(administration(operation));
        let outcome = timeout(PATIENCE, asked).await;
        tracing::info!("it came to {outcome:?}");
        let (_, outcome) = outcome.ok()?.ok()?;
        Some(outcome)
    }
}

fn begin_unmount(mount: &Mount) -> Operation {
    let path = mount.path.clone();
    Operation::BeginUnmount { path }
}

/// The next step of what was begun with this mount and is not done.
fn unfinished(mount: &Mount) -> Option<Operation> {
    if mount.unmounting.is_some() {
        return Some(begin_unmount(mount));
    }
    let upgrade = mount.upgrade.filter(|upgrade| upgrade.behind.is_some())?;
    Some(Operation::FollowUpgrade {
        path: mount.path.clone(),
        swapped: upgrade.swapped,
    })
}

/// What is asked for, without components.
fn named(operation: &Operation) -> Option<&Operation> {
    let piece = matches!(operation, Operation::UploadPiece { .. });
    (!piece).then_some(operation)
}
