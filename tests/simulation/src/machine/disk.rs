//! A disk that takes its time, and of which a crash takes what was not synced, or half of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::Disk;

/// The unit in which a crash tears what was being written.
const SECTOR: u64 = 512;

/// A machine's disk. It outlives the server that runs there: see [`SimulatedDisk::handle`].
pub struct SimulatedDisk {
    state: Mutex<State>,
    /// The most that one piece of work takes now, in microseconds.
    slowness: AtomicU64,
    /// It says that it has synced, and has not.
    lies: bool,
}

struct State {
    random: fastrand::Rng,
    /// The files that have something unsynced, by device and inode.
    unsynced: BTreeMap<(u64, u64), Unsynced>,
    /// How many files ever had.
    files: u64,
    powered: Arc<AtomicBool>,
}

struct Unsynced {
    file: File,
    /// The file's length that is safe.
    safe: u64,
    /// Later ones are newer.
    number: u64,
}

/// The disk as one start of a server sees it.
struct Handle {
    disk: Arc<SimulatedDisk>,
    powered: Arc<AtomicBool>,
}

/// What a healthy disk takes at most, in microseconds.
const HEALTHY: u64 = 3_000;

impl SimulatedDisk {
    /// A disk that is healthy; one that `lies` syncs nothing.
    pub fn new(seed: u64, lies: bool) -> Arc<SimulatedDisk> {
        Arc::new(SimulatedDisk {
            state: Mutex::new(State {
                random: fastrand::Rng::with_seed(seed),
                unsynced: BTreeMap::new(),
                files: 0,
                powered: Arc::default(),
            }),
            slowness: AtomicU64::new(HEALTHY),
            lies,
        })
    }

    /// The disk for a server that starts now.
    pub fn handle(self: &Arc<Self>) -> Arc<dyn Disk> {
        let powered = Arc::new(AtomicBool::new(true));
        self.state.lock().powered = powered.clone();
        Arc::new(Handle {
            disk: self.clone(),
            powered,
        })
    }

    /// Each piece of work takes up to so long from now on; none for as usual.
    pub fn slow(&self, most: Option<Duration>) {
        let most = most.map_or(HEALTHY, |most| most.as_micros() as u64);
        self.slowness.store(most, Ordering::Relaxed);
    }

    /// The machine stops here and now: of what was not synced, each file keeps all, nothing, or a part, the last
    /// of which may be torn.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        let State {
            random,
            unsynced,
            powered,
            ..
        } = &mut *state;
        powered.store(false, Ordering::SeqCst);
        let unsynced = std::mem::take(unsynced);
        let newest = unsynced.values().map(|one| one.number).max();
        for Unsynced { file, safe, number } in unsynced.into_values() {
            let length = file.metadata().map_or(safe, |data| data.len());
            // A disk that lies loses what looks as if it had never been written, so that no log can tell.
            if length <= safe || (self.lies && Some(number) != newest) {
                continue;
            }
            let kept = match random.u8(..4) {
                0 => length,
                1 => safe,
                _ => random.u64(safe..=length),
            };
            let torn = file.set_len(kept).and_then(|()| {
                if kept > safe && !self.lies && random.bool() {
                    // A sector that was never written, before others that were.
                    let sector = random.u64(safe..kept) / SECTOR * SECTOR;
                    let from = sector.max(safe);
                    let hole = vec![0; (SECTOR.min(kept - from)) as usize];
                    file.write_all_at(&hole, from)?;
                }
                Ok(())
            });
            torn.expect("the directory of the simulation can be written");
        }
    }
}

impl Handle {
    fn alive(&self) -> io::Result<()> {
        match self.powered.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(io::Error::other("the machine has crashed")),
        }
    }
}

fn id(file: &File) -> io::Result<(u64, u64)> {
    let data = file.metadata()?;
    Ok((data.dev(), data.ino()))
}

impl Disk for Handle {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.alive()?;
        let mut state = self.disk.state.lock();
        let number = state.files;
        if let Entry::Vacant(vacant) = state.unsynced.entry(id(file)?) {
            vacant.insert(Unsynced {
                file: file.try_clone()?,
                safe: file.metadata()?.len(),
                number,
            });
            state.files += 1;
        }
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.alive()?;
        if !self.disk.lies {
            self.disk.state.lock().unsynced.remove(&id(file)?);
        }
        Ok(())
    }

    fn pace(&self) -> Option<Duration> {
        let most = self.disk.slowness.load(Ordering::Relaxed);
        let micros = self.disk.state.lock().random.u64(..=most);
        Some(Duration::from_micros(micros))
    }
}
