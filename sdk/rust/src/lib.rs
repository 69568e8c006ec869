//! Write recipes for Quorate in Rust.
//!
//! A recipe is a library that exports *operations*; the server runs each call of one as a transaction on
//! the tree below the recipe's mount. Declare the operations in WIT and write a plain function for each:
//!
//! ```
//! use quorate_recipe::prelude::*;
//!
//! recipe!(r#"
//!     package example:turnstile;
//!     interface turnstile {
//!         /// Lets one more through; says how many that makes.
//!         pass: func(name: string) -> u64;
//!         /// Waits until so many have passed.
//!         wait-for: func(name: string, count: u64) -> u64;
//!     }
//!     world recipe { export turnstile; }
//! "#);
//!
//! fn pass(name: String) -> u64 {
//!     let passed = passed(&name) + 1;
//!     tree::put(&name, passed.to_string());
//!     passed
//! }
//!
//! fn wait_for(name: String, count: u64) -> u64 {
//!     let passed = passed(&name);
//!     if passed < count {
//!         watch::node(&name);
//!         call::park("");
//!     }
//!     passed
//! }
//!
//! fn passed(name: &str) -> u64 {
//!     require_name(name);
//!     tree::get(name).map_or(0, |node| node.parse())
//! }
//! # fn main() {}
//! ```
//!
//! `Cargo.toml` says `crate-type = ["cdylib"]` under `[lib]`, and nothing but cargo is needed:
//! `cargo build --release --target wasm32-unknown-unknown`. The server makes a component of the result.
//!
//! # How a run goes
//!
//! A run starts from the operation's first line with a fresh memory: all state is in the tree. It ends by
//! returning, or by one of these, none of which returns:
//!
//! - [`call::park`] (or [`park!`]) keeps what was written and waits for the watches that were set; then
//!   the operation runs again *from its start*, and finds in [`call::memo`] what it had handed over;
//! - [`call::refuse`] (or [`refuse!`]) drops what was written and gives the caller the reason; so does a
//!   result that is `Err`, if the operation has one;
//! - a panic drops what was written and tells caller and operator where it was.
//!
//! So there is no `?` for the tree: a change that the tree does not take, and that the recipe did not
//! expect, is a panic that undoes the run. Where a recipe wants to handle it, the form that begins with
//! `try_` gives the error.
//!
//! # What authors trip over
//!
//! - **Look at the memo before writing.** A run that was parked starts over: without a look at
//!   [`call::memo`] it takes a second ticket.
//! - **A ticket may be gone** when its call wakes: somebody deleted it, or its session let go of it.
//!   [`line::stand_in`] looks.
//! - **Watch as little as possible.** If a hundred calls watch the same children, each change wakes a
//!   hundred. Watch the one who stands ahead, or a gate.
//! - **Name a thing by its zxid**, not its name, when it may go and come again: `stat.created` is a
//!   fencing token.
//! - **Earlier runs stay.** A call that parked and is refused later keeps the lasting writes of its
//!   earlier runs; only the znodes that it created with [`mine`] go.
//! - **What callers store is listed one day.** All of it can be more than a run may read or give: bound what
//!   is kept ([`bound`]), and give long lists in pages ([`page`]).
//! - **A client that gives up must ask** whether it got the lock: cancelling answers with the result if
//!   there is one.

#[doc(hidden)]
pub mod bindings;

pub mod bound;
pub mod call;
pub mod line;
pub mod log;
pub mod page;
pub mod tree;
pub mod watch;

mod macros;

/// Declares the recipe: `recipe!("WIT text")`, or `recipe!(file = "wit/lock.wit")` from the folder of
/// `Cargo.toml`.
///
/// The text is one package with one world, which exports interfaces of the author's own and imports
/// nothing: the SDK brings `quorate:recipe`, from which the text may `use` types such as
/// `quorate:recipe/types@0.1.0.{zxid}`.
///
/// For each exported function, the macro expects a function in scope where it stands: `try-acquire:
/// func(name: string) -> option<grant>` is `fn try_acquire(name: String) -> Option<Grant>`. Where two
/// interfaces export the same name, the functions are called `<interface>_<operation>`. The interfaces'
/// records, variants, enums and flags come into scope as Rust types; what is called alike in two
/// interfaces is found under `bindings::exports`.
///
/// A world may also export `quorate:recipe/guard@0.1.0` and `quorate:recipe/standing@0.1.0`. The functions are then
/// `fn admit(changes: Vec<Change>)`, which is asked about other clients' writes, and `fn run()`, which runs without being
/// called (where an operation has that name: `guard_admit`, `standing_run`):
///
/// ```
/// use quorate_recipe::prelude::*;
///
/// recipe!(r#"
///     package example:inbox;
///     interface inbox { sent: func() -> u64; }
///     world recipe {
///         export inbox;
///         export quorate:recipe/guard@0.1.0;
///         export quorate:recipe/standing@0.1.0;
///     }
/// "#);
///
/// /// Letters have text, and stay as they are.
/// fn admit(changes: Vec<Change>) {
///     for Change { path, before, after } in changes {
///         match (before, after) {
///             (None, Some(letter)) if !letter.data.is_empty() => {}
///             (_, None) => {}
///             _ => refuse!("{path} is no letter, or was one already"),
///         }
///     }
/// }
///
/// /// Counts what comes, and takes it away.
/// fn run() {
///     let letters = tree::children("in", &Range::first(100));
///     let before = sent();
///     for letter in &letters {
///         tree::delete(&path!("in", letter));
///     }
///     tree::put("sent", (before + letters.len() as u64).to_string());
///     watch::children("in");
///     call::park("");
/// }
///
/// fn sent() -> u64 {
///     tree::get("sent").map_or(0, |node| node.parse())
/// }
/// # fn main() {}
/// ```
///
/// The text, comments included, goes into the component: the server shows it as documentation.
pub use quorate_recipe_macros::recipe;

/// All that most recipes use.
pub mod prelude {
    pub use crate::tree::{Child, Error, Lifetime, Node, Range, Stat, mine, require_name};
    pub use crate::{bound, call, line, log, page, park, path, recipe, refuse, tree, watch};
}

/// What every operation does first: a panic is written to the operator's log before it traps, and the
/// server repeats that line to the caller.
#[doc(hidden)]
pub fn begin() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string())));
}
