//! Chores: `cargo xtask check` looks at what is written and never writes; `cargo xtask fix` writes.

use std::process::{Command, ExitCode};

/// A chore: its name, what it is for, and the arguments of `cargo` that it runs, one after the other.
struct Chore {
    name: &'static str,
    purpose: &'static str,
    steps: &'static [&'static [&'static str]],
    /// Set for its commands.
    environment: &'static [(&'static str, &'static str)],
}

const CHORES: &[Chore] = &[
    Chore {
        name: "check",
        purpose: "formatting, lints and the crates' dependency directions; writes nothing",
        steps: &[
            &["fmt", "--all", "--check"],
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            &["test", "--workspace", "--test", "dependencies"],
        ],
        environment: &[],
    },
    Chore {
        name: "fix",
        purpose: "formats, does what clippy suggests, and writes the scenarios' outputs anew (look at the difference)",
        steps: &[
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--fix",
                "--allow-dirty",
                "--allow-staged",
            ],
            &["fmt", "--all"],
            &["test", "--workspace", "--test", "scenarios"],
        ],
        environment: &[("QUORATE_BLESS", "1")],
    },
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let Some(chore) = CHORES.iter().find(|chore| chore.name == wanted) else {
        eprintln!("usage: cargo xtask <chore>");
        for chore in CHORES {
            eprintln!("  {:6} {}", chore.name, chore.purpose);
        }
        return ExitCode::from(2);
    };
    for arguments in chore.steps {
        println!("==> cargo {}", arguments.join(" "));
        let status = Command::new("cargo")
            .args(*arguments)
            .envs(chore.environment.iter().copied())
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(_) => return ExitCode::FAILURE,
            Err(error) => {
                eprintln!("cargo cannot be started: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
