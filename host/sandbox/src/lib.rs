//! The only crate that names wasmtime: check, compile, cache, bound, run.
//!
//! ```
//! # use quorate_model::run::{RunEnding, RunInput, Runner, TreeAccess};
//! # use quorate_sandbox::{ReadyError, Sandbox};
//! # use std::sync::Arc;
//! # fn example<T: TreeAccess>(sandbox: Arc<Sandbox<T>>, upload: &[u8], input: RunInput, tree: T)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! // On upload, away from the evaluating thread: check it, and see that it compiles. What is kept and
//! // replicated is `prepared.component`, known by `prepared.digest`.
//! let prepared = sandbox.prepare(upload)?;
//! sandbox.make_ready(prepared.digest, &prepared.component)?;
//! let for_people_and_programs = prepared.interface.describe();
//!
//! // On every server, for each mounted recipe, again away from the evaluating thread: at its start, and
//! // when a mount is applied.
//! sandbox.make_ready(prepared.digest, &prepared.component)?;
//!
//! // The evaluating thread. It never compiles: what is not ready is answered so.
//! let report = sandbox.run(input, tree);
//! match report.ending {
//!     RunEnding::Returned(result) => { /* commit what report.tree has, answer with result */ }
//!     RunEnding::NotReady => { /* refuse as repeatable, have it made ready */ }
//!     _ => {}
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A sandbox is made once, by [`Sandbox::new`], and shared by reference. A run is on its caller's thread,
//! takes microseconds, and ends by its wall-clock deadline at the latest.
//!
//! A run that traps, loops, or asks for more than a bound leaves nothing behind: its instance is dropped, and
//! the tree that it worked on comes back in the report for whoever made it to take back.
//!
//! # Values as JSON
//!
//! | WIT | JSON |
//! | --- | --- |
//! | `bool` | `true`, `false` |
//! | integers | a number; also accepted as a string of decimal digits, for clients whose numbers are too small for 64 bits |
//! | `f32`, `f64` | a number, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `char` | a string of one character |
//! | `string` | a string |
//! | `list<u8>` | a string if the bytes are UTF-8, else `{"base64": "…"}`; both are accepted, and an array of numbers too |
//! | `list<t>`, `tuple<…>` | an array |
//! | a record | an object with the fields' names as WIT has them, in kebab-case; a field that is an `option` may be left out |
//! | an enum | its case, a string |
//! | a variant | a case that carries nothing: a string; else `{"case": value}` |
//! | flags | an array of those that are set |
//! | `option<t>` | `null` for none, else the value; where the value itself may be `null`, `{"some": value}` |
//! | `result<t, e>` | `{"ok": value}` or `{"err": value}`, with `null` where a side carries nothing |
//!
//! An operation whose result is a `result` answers with the bare value of the side that it came to: which
//! one it was, the call's status says.

mod limits;

mod check;
mod interface;
mod json;

mod abi;
mod cache;
mod compile;
mod engine;
mod host;
mod link;
mod run;
mod runs;

pub use check::{PreparedRecipe, UploadError, interface_of, prepare};
pub use compile::{COMPILE_COMMAND, Compiler, compile_child};
pub use interface::{
    Definition, Interface, Named, Operation, OperationDescription, ParameterDescription,
    RecipeDescription, Type, TypeDescription, abi_version,
};
pub use limits::{CompileLimits, RunLimits, UploadLimits, bound};
pub use run::{ReadyError, Sandbox, SandboxConfig, SandboxError, host_fuel};
