//! What a run of the fair lock costs: `cargo run --release -p quorate-sandbox --example cost`.

#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, reason = "the double is a test's")]

#[path = "../tests/double/mod.rs"]
mod double;

use std::time::Instant;

use bytes::Bytes;
use double::{MemoryTree, input};
use quorate_model::run::{RunEnding, Runner as _};
use quorate_sandbox::{Sandbox, SandboxConfig, UploadLimits, prepare};

const ROUNDS: usize = 20_000;
const SAMPLES: usize = 9;

fn main() {
    let upload = quorate_recipes::find("fair-lock")
        .expect("it is embedded")
        .wasm;
    let started = Instant::now();
    let prepared = prepare(upload, &UploadLimits::default()).expect("it is well-formed");
    println!(
        "check           {:9.2} ms",
        1e3 * started.elapsed().as_secs_f64()
    );
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("the engine starts");
    let started = Instant::now();
    sandbox
        .make_ready(prepared.digest, &prepared.component)
        .expect("it compiles");
    println!(
        "compile         {:9.2} ms",
        1e3 * started.elapsed().as_secs_f64()
    );

    let empty = MemoryTree::new();
    let held = after(&sandbox, &prepared.digest, empty.clone(), 1, "acquire");
    let ticket = Bytes::from_static(b"ticket-0000000000000000");
    let cases = [
        ("holder of nobody", &empty, 1, "holder", None),
        ("granted at once", &empty, 1, "acquire", None),
        ("one more hold", &held, 1, "acquire", None),
        ("parked", &held, 2, "acquire", None),
        ("woken, granted", &held, 1, "acquire", Some(ticket)),
        ("released", &held, 1, "release", None),
    ];
    for (name, tree, session, operation, memo) in cases {
        let mut fuel = 0;
        let mut samples: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                let runs = (0..ROUNDS).map(|_| {
                    let input = input(
                        prepared.digest,
                        session,
                        operation,
                        r#"["inventory"]"#,
                        memo.clone(),
                        500,
                    );
                    (input, tree.clone())
                });
                let runs: Vec<_> = runs.collect();
                let started = Instant::now();
                for (input, tree) in runs {
                    let report = sandbox.run(input, tree);
                    fuel = report.fuel;
                    std::hint::black_box(report);
                }
                1e6 * started.elapsed().as_secs_f64() / ROUNDS as f64
            })
            .collect();
        samples.sort_by(f64::total_cmp);
        println!(
            "{name:16}{:9.2} µs   (best {:.2}, fuel {fuel})",
            samples[SAMPLES / 2],
            samples[0]
        );
    }
}

fn after(
    sandbox: &Sandbox<MemoryTree>,
    digest: &quorate_model::recipe::RecipeDigest,
    tree: MemoryTree,
    session: u64,
    operation: &str,
) -> MemoryTree {
    let input = input(*digest, session, operation, r#"["inventory"]"#, None, 400);
    let report = sandbox.run(input, tree);
    assert!(matches!(report.ending, RunEnding::Returned(_)));
    report.tree
}
