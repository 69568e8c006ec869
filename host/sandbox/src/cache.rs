//! Compiled components on disk, so that a restart compiles nothing again.
//!
//! The directory is as trusted as the server's binary: what it holds is machine code that will be run. So it
//! belongs to the server alone, and nothing that a client sent is ever put there. The checksum finds damage,
//! not malice.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use quorate_model::recipe::RecipeDigest;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What a file begins with; its SHA-256 of the rest follows.
const MAGIC: &[u8; 8] = b"quorcwa1";
const CHECKSUM_BYTES: usize = 32;
const EXTENSION: &str = "cwasm";

/// Compiled components by digest and engine.
pub(crate) struct Cache {
    directory: PathBuf,
    /// What tells this engine, its version and settings from any other.
    engine: u64,
}

impl Cache {
    /// Opens the directory, creates it if need be, and removes what other engines left.
    pub(crate) fn open(directory: &Path, engine: &Engine) -> io::Result<Cache> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Cache {
            directory: directory.to_owned(),
            engine: hasher.finish(),
        };
        create_private(directory)?;
        let current = cache.suffix();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let is_other = name.is_some_and(|name| {
                (name.ends_with(EXTENSION) && !name.ends_with(&current)) || name.ends_with(".new")
            });
            if is_other {
                // What cannot be removed does no harm.
                let _ = fs::remove_file(path);
            }
        }
        Ok(cache)
    }

    fn suffix(&self) -> String {
        format!("-{:016x}.{EXTENSION}", self.engine)
    }

    fn path(&self, digest: &RecipeDigest) -> PathBuf {
        self.directory.join(format!("{digest}{}", self.suffix()))
    }

    /// The component, if it is there and whole.
    pub(crate) fn load(&self, engine: &Engine, digest: &RecipeDigest) -> Option<Component> {
        let file = fs::read(self.path(digest)).ok()?;
        let rest = file.strip_prefix(MAGIC)?;
        let (checksum, code) = rest.split_at_checked(CHECKSUM_BYTES)?;
        if Sha256::digest(code)[..] != *checksum {
            return None;
        }
        deserialize(engine, code).ok()
    }

    /// Keeps compiled code. A crash meanwhile leaves no file that [`Cache::load`] would take.
    pub(crate) fn store(&self, digest: &RecipeDigest, code: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        drop(file);
        fs::rename(new, path)
    }

    pub(crate) fn remove(&self, digest: &RecipeDigest) {
        // What cannot be removed does no harm.
        let _ = fs::remove_file(self.path(digest));
    }
}

/// Creates the directory, for this user alone.
fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Makes a component of what this engine compiled.
#[allow(
    unsafe_code,
    reason = "compiled code is loaded as it is; see the caller's promise"
)]
pub(crate) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` is what `Engine::precompile_component` gave in this process, in its child that is
    // the same program, or in an earlier one of the same engine and settings, then read from a directory
    // that only the server writes to and found whole by its checksum.
    unsafe { Component::deserialize(engine, code) }
}
