//! Where the commands that need no server find recipes: files, the project around, the standard ones.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use quorate_workbench::Shelf;
use serde_json::json;

use super::super::output::Output;

/// Where cargo puts what it builds for WebAssembly, below the target folder; the newer one is taken.
const BUILT: [&str; 2] = [
    "wasm32-unknown-unknown/release",
    "wasm32-unknown-unknown/debug",
];

/// The most source files that are looked at for whether the component is older.
const MAX_SOURCES: usize = 1_000;

/// `[NAME=]FILE.wasm`
#[derive(Clone, Debug)]
pub(super) struct Given {
    name: String,
    file: PathBuf,
}

impl Given {
    /// As clap wants it.
    pub(super) fn parse(text: &str) -> Result<Given, String> {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) => (name.to_owned(), PathBuf::from(file)),
            None => (name_of(Path::new(text)), PathBuf::from(text)),
        };
        if name.is_empty() || !file.is_file() {
            return Err(format!("there is no file {}", file.display()));
        }
        Ok(Given { name, file })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// What a file's recipe is called: its name without `.wasm`, `_` as `-`.
pub(super) fn name_of(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    stem.unwrap_or_default().to_lowercase().replace('_', "-")
}

/// Finds what the scenarios and properties of one folder name.
pub(super) struct Files<'a> {
    directory: PathBuf,
    given: &'a [Given],
    output: &'a Output,
    /// What was said already.
    notes: RefCell<BTreeSet<String>>,
}

impl<'a> Files<'a> {
    /// For a file that names others, relative to its folder.
    pub(super) fn of(file: &Path, given: &'a [Given], output: &'a Output) -> Files<'a> {
        let directory = file.parent().unwrap_or(Path::new("")).to_owned();
        let notes = RefCell::default();
        Files {
            directory,
            given,
            output,
            notes,
        }
    }

    /// The project that the folder lies in: the nearest with a manifest of cargo.
    fn project(&self) -> Option<PathBuf> {
        let directory = fs::canonicalize(self.directory.join(".")).ok()?;
        let mut around = directory.ancestors();
        let project = around.find(|folder| folder.join("Cargo.toml").is_file())?;
        Some(project.to_owned())
    }

    /// What cargo has built of that name, and is the newest.
    fn built(&self, project: &Path, name: &str) -> (Vec<PathBuf>, Option<PathBuf>) {
        let target = std::env::var_os("CARGO_TARGET_DIR").filter(|target| !target.is_empty());
        let target = target.map_or_else(|| project.join("target"), PathBuf::from);
        let file = format!("{}.wasm", name.replace('-', "_"));
        let candidates = BUILT.map(|folder| target.join(folder).join(&file));
        let newest = candidates
            .iter()
            .max_by_key(|candidate| modified(candidate));
        let newest = newest.filter(|candidate| candidate.is_file()).cloned();
        (candidates.into(), newest)
    }

    /// Whoever forgot to build after a change wonders for long.
    fn note_if_old(&self, project: &Path, component: &Path) {
        let (Some(built), Some((changed, source))) =
            (modified(component), newest(&project.join("src")))
        else {
            return;
        };
        if changed <= built {
            return;
        }
        let source = source.strip_prefix(project).unwrap_or(&source).to_owned();
        let note = format!(
            "note: {} is newer than {}: build again, with `cargo build --release --target wasm32-unknown-unknown`",
            source.display(),
            component.display()
        );
        if self.notes.borrow_mut().insert(note.clone()) {
            let document = json!({"note": note});
            self.output.note(note, document);
        }
    }
}

impl Shelf for Files<'_> {
    fn recipe(&self, name: &str) -> Result<Vec<u8>> {
        let read =
            |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        if name.contains('/') || name.ends_with(".wasm") {
            return read(&self.directory.join(name));
        }
        if let Some(given) = self.given.iter().find(|given| given.name == name) {
            return read(&given.file);
        }
        let project = self.project();
        let mut looked_at = String::new();
        if let Some(project) = &project {
            let (candidates, newest) = self.built(project, name);
            if let Some(component) = newest {
                self.note_if_old(project, &component);
                return read(&component);
            }
            looked_at = candidates[0].display().to_string();
        }
        if let Some(standard) = quorate_recipes::find(name) {
            return Ok(standard.wasm.to_vec());
        }
        let standard: Vec<&str> = quorate_recipes::all().iter().map(|it| it.name).collect();
        let standard = standard.join(", ");
        match project {
            Some(_) => bail!(
                "there is no recipe {name:?}: no {looked_at}, and none of the standard ones ({standard}). Build it, with \
                 `cargo build --release --target wasm32-unknown-unknown`, or name its file with --recipe"
            ),
            None => bail!(
                "there is no recipe {name:?}: it is none of the standard ones ({standard}), and no project of cargo is \
                 around. Name its .wasm file with --recipe, or write a path"
            ),
        }
    }

    fn text(&self, path: &str) -> Result<String> {
        let file = self.directory.join(path);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|data| data.modified()).ok()
}

/// The source that changed last, and when.
fn newest(folder: &Path) -> Option<(SystemTime, PathBuf)> {
    let mut newest = None;
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            seen += 1;
            if seen > MAX_SOURCES {
                return newest;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                _ => newest = newest.max(modified(&path).map(|changed| (changed, path))),
            }
        }
    }
    newest
}
