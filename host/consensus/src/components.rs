//! Components on disk: each in a file of its own beside the snapshots, named by its digest, and written once
//! for all the snapshots that need it.
//!
//! A file is put in place whole and durable, and never changes: its name is its checksum. It goes when no
//! snapshot needs it that is in place, being written, being received or being sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::recipe::{Component, MAX_COMPONENT_BYTES, MAX_PIECE_BYTES, RecipeDigest};
use serde::{Deserialize, Serialize};

use crate::log::recover::sync_dir;
use crate::snapshot::{Partial, damaged};

/// What a component's file is called behind its digest.
const EXTENSION: &str = "component";

/// A component that a snapshot needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Needed {
    pub(crate) digest: RecipeDigest,
    pub(crate) bytes: u64,
}

impl Needed {
    pub(crate) fn of((digest, component): &(RecipeDigest, Component)) -> Needed {
        Needed {
            digest: *digest,
            bytes: component.bytes(),
        }
    }
}

/// The components' files.
#[derive(Debug)]
pub(crate) struct ComponentStore {
    dir: PathBuf,
    /// How many snapshots need each.
    holders: Mutex<BTreeMap<RecipeDigest, usize>>,
    /// Those whose files were read since the start, and found whole.
    whole: Mutex<BTreeSet<RecipeDigest>>,
    /// How many files were begun since the start.
    begun: AtomicU64,
}

/// Keeps the components of a snapshot where they are, and those that come meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    store: Arc<ComponentStore>,
    needed: Vec<Needed>,
}

impl Held {
    pub(crate) fn needed(&self) -> &[Needed] {
        &self.needed
    }

    /// One of them, and where it is.
    pub(crate) fn file(&self, place: usize) -> Option<(Needed, PathBuf)> {
        let needed = *self.needed.get(place)?;
        Some((needed, self.store.path(&needed.digest)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.store.holders.lock();
        for needed in &self.needed {
            if let Some(count) = holders.get_mut(&needed.digest) {
                *count -= 1;
                if *count == 0 {
                    holders.remove(&needed.digest);
                }
            }
        }
        // The files go at the next sweep: a server that stops drops this too, and needs them again.
    }
}

impl ComponentStore {
    pub(crate) fn new(dir: &Path) -> Arc<ComponentStore> {
        Arc::new(ComponentStore {
            dir: dir.to_owned(),
            holders: Mutex::default(),
            whole: Mutex::default(),
            begun: AtomicU64::new(0),
        })
    }

    /// Whether a file is called as a component's is.
    pub(crate) fn is_component(path: &Path) -> bool {
        digest_of(path).is_some()
    }

    /// Keeps these from being swept away, whether they are there or yet to come.
    pub(crate) fn hold(self: &Arc<Self>, needed: Vec<Needed>) -> Held {
        let mut holders = self.holders.lock();
        for needed in &needed {
            *holders.entry(needed.digest).or_default() += 1;
        }
        drop(holders);
        Held {
            store: self.clone(),
            needed,
        }
    }

    /// Removes what no snapshot needs.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let Some(digest) = digest_of(&path) else {
                continue;
            };
            // Locked meanwhile, so that nobody begins to need it.
            let holders = self.holders.lock();
            if !holders.contains_key(&digest) {
                self.whole.lock().remove(&digest);
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Where a component is, or will be.
    fn path(&self, digest: &RecipeDigest) -> PathBuf {
        self.dir.join(format!("{digest}.{EXTENSION}"))
    }

    /// Whether it is there, and whole: a damaged one is written or asked for anew. Read once per start of the process.
    pub(crate) fn has(&self, needed: &Needed) -> bool {
        let path = self.path(&needed.digest);
        if !fs::metadata(&path).is_ok_and(|file| file.len() == needed.bytes) {
            return false;
        }
        if self.whole.lock().contains(&needed.digest) {
            return true;
        }
        let whole = fs::read(path).is_ok_and(|bytes| RecipeDigest::of(&bytes) == needed.digest);
        if whole {
            self.whole.lock().insert(needed.digest);
        }
        whole
    }

    /// Writes a component, unless it is there already.
    pub(crate) fn write(&self, digest: &RecipeDigest, component: &Component) -> io::Result<()> {
        let needed = Needed {
            digest: *digest,
            bytes: component.bytes(),
        };
        if self.has(&needed) {
            return Ok(());
        }
        let partial = self.partial();
        let mut file = File::create(partial.path())?;
        let mut unsynced = 0;
        for piece in component.pieces() {
            file.write_all(piece)?;
            unsynced += piece.len() as u64;
            // The log's own syncs wait for what the disk has been given before them.
            if unsynced >= crate::snapshot::SYNC_BYTES {
                file.sync_data()?;
                unsynced = 0;
            }
        }
        drop(file);
        self.place(&partial, &needed)
    }

    /// A name for a file that is about to be written.
    pub(crate) fn partial(&self) -> Partial {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Partial::new(self.dir.join(format!("component-{number}.partial")))
    }

    /// Puts a whole file in place, and makes it durable.
    fn place(&self, partial: &Partial, needed: &Needed) -> io::Result<()> {
        File::open(partial.path())?.sync_all()?;
        fs::rename(partial.path(), self.path(&needed.digest))?;
        sync_dir(&self.dir)
    }

    /// The same with a file that a peer has sent, if it is what was asked for.
    pub(crate) fn place_received(&self, partial: &Partial, needed: &Needed) -> io::Result<()> {
        read(partial.path(), needed)?;
        self.place(partial, needed)
    }

    /// Reads a component, and checks it.
    pub(crate) fn read(&self, needed: &Needed) -> io::Result<Component> {
        let path = self.path(&needed.digest);
        read(&path, needed)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

fn read(path: &Path, needed: &Needed) -> io::Result<Component> {
    if needed.bytes > MAX_COMPONENT_BYTES as u64 {
        return Err(damaged(format!("a component of {} bytes", needed.bytes)));
    }
    let mut file = BufReader::with_capacity(MAX_PIECE_BYTES, File::open(path)?);
    let mut pieces = Vec::new();
    let mut left = needed.bytes;
    while left > 0 {
        let mut piece = vec![0; left.min(MAX_PIECE_BYTES as u64) as usize];
        file.read_exact(&mut piece)?;
        left -= piece.len() as u64;
        pieces.push(Bytes::from(piece));
    }
    let component = Component::new(pieces);
    if file.read(&mut [0])? != 0 || component.digest() != needed.digest {
        return Err(damaged(
            "the component has another digest than its name says".into(),
        ));
    }
    Ok(component)
}

fn digest_of(path: &Path) -> Option<RecipeDigest> {
    let name = path.file_name()?.to_str()?;
    let (digest, extension) = name.split_once('.')?;
    (extension == EXTENSION).then(|| digest.parse().ok())?
}
