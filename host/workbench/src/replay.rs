//! Replay: a recorded run again, with the same component or another one.

use anyhow::{Result, bail};
use quorate_model::recording::{Ran, Recording, Replay};
use quorate_model::run::{RunInput, Runner as _};
use quorate_sandbox::{Sandbox, SandboxConfig};

/// A recorded run that was run again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What it came to this time.
    pub ran: Ran,
    /// Whether another component ran than the recorded one.
    pub other_component: bool,
    /// Where it asked something else of the tree than the recorded run, if it did.
    pub strayed: Option<String>,
    /// What is not as it was recorded, for people. Nothing: it went the same way, bit for bit.
    pub differences: Vec<String>,
}

/// Runs a recorded run again, with the component that `upload` is (a component, or a core module with its interface).
///
/// # Errors
/// If that is no recipe, or has no such operation: what the server would say.
pub fn replay(recording: &Recording, upload: &[u8]) -> Result<Replayed> {
    let sandbox = Sandbox::new(SandboxConfig::default())?;
    let prepared = sandbox.prepare(upload)?;
    sandbox.make_ready(prepared.digest, &prepared.component)?;
    let recorded = &recording.ran;
    let input = RunInput {
        digest: prepared.digest,
        ..recording.input.clone()
    };
    let other_component = input.digest != recording.input.digest;
    let report = sandbox.run(input, Replay::new(recording.steps.clone()));
    if let quorate_model::run::RunEnding::BadCall(message) = &report.ending {
        bail!("the call does not fit this component: {message}");
    }
    let ran = Ran {
        ending: report.ending,
        fuel: report.fuel,
        log: report.log,
    };
    let strayed = report.tree.strayed().map(std::borrow::Cow::into_owned);
    let mut differences = Vec::new();
    if recorded.ending != ran.ending {
        let (recorded, now) = (&recorded.ending, &ran.ending);
        differences.push(format!("ending: recorded {recorded:?}, now {now:?}"));
    }
    if recorded.fuel != ran.fuel {
        let (recorded, now) = (recorded.fuel, ran.fuel);
        differences.push(format!("fuel: recorded {recorded}, now {now}"));
    }
    if recorded.log != ran.log {
        let (recorded, now) = (&recorded.log, &ran.log);
        differences.push(format!("log: recorded {recorded:?}, now {now:?}"));
    }
    Ok(Replayed {
        ran,
        other_component,
        strayed,
        differences,
    })
}
