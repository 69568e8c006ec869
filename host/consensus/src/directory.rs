//! The data directory: whose it is, which release wrote it, and that only one server uses it.
//!
//! | file | what |
//! | --- | --- |
//! | `quorate.json` | `{"format": 2, "server": 1, "id": 81985529216486895, "written_by": "0.1.0"}`; made last, so without it nothing was ever acknowledged here |
//! | `lock` | locked while a server uses the directory |
//! | `log/<position>.log` | the log's files: [`crate::log::record`] |
//! | `snapshots/<index>-<term>.snapshot` | the newest snapshot: [`crate::snapshot`] |
//! | `snapshots/<digest>.component` | the components that it needs: [`crate::components`] |

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use quorate_model::id::ServerId;
use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::log::record::{HEAD_BYTES, HEADER_BYTES, START_BYTES};
use crate::log::recover::{segment_name, sync_dir};
use crate::peer::acquaintances::DirectoryId;

/// The version of the directory's layout that this build writes, and the only one it reads.
pub(crate) const DIRECTORY_VERSION: u32 = 2;

const MANIFEST: &str = "quorate.json";
const MANIFEST_PARTIAL: &str = "quorate.json.partial";
const LOCK: &str = "lock";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    server: u64,
    /// Random, made with the directory.
    id: DirectoryId,
    written_by: String,
}

/// An open data directory. It stays locked until this is dropped.
pub(crate) struct Directory {
    path: PathBuf,
    server: ServerId,
    /// Whose number is its own and nobody else's; none of one in which nothing was ever acknowledged.
    pub(crate) id: Option<DirectoryId>,
    _lock: File,
}

impl Directory {
    /// Locks the directory, makes what is missing in it, and checks that it is this server's.
    pub(crate) fn open(path: &Path, server: ServerId) -> Result<Directory, OpenError> {
        fs::create_dir_all(path).map_err(OpenError::io("make", path))?;
        // Looked at before the lock is made, so that a wrong path stays as it is; and once more with
        // it, as another server may have made the directory its own meanwhile.
        check(path, server)?;
        let lock = lock(&path.join(LOCK))?;
        let id = check(path, server)?;
        let directory = Directory {
            path: path.to_owned(),
            server,
            id,
            _lock: lock,
        };
        for dir in [directory.log(), directory.snapshots()] {
            fs::create_dir_all(&dir).map_err(OpenError::io("make", &dir))?;
        }
        if directory.id.is_none() {
            let first = directory.log().join(segment_name(0));
            match fs::remove_file(&first) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(OpenError::io("remove", &first)(error));
                }
                _ => {}
            }
        }
        Ok(directory)
    }

    /// Where the log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where the snapshots are.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Says whose the directory is, and gives it its number. From here on a missing log is damage.
    pub(crate) fn found(&mut self) -> Result<DirectoryId, OpenError> {
        let number = getrandom::u64().map_err(|error| OpenError::Raft(error.to_string()))?;
        let id = DirectoryId(number);
        let manifest = Manifest {
            format: DIRECTORY_VERSION,
            server: self.server.0,
            id,
            written_by: env!("CARGO_PKG_VERSION").into(),
        };
        let (partial, path) = (self.path.join(MANIFEST_PARTIAL), self.path.join(MANIFEST));
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            sync_dir(&self.path)?;
            // The directory itself may be new, too.
            self.path
                .parent()
                .filter(|parent| parent.is_dir())
                .map_or(Ok(()), sync_dir)
        };
        write().map_err(OpenError::io("write", &path))?;
        self.id = Some(id);
        Ok(id)
    }
}

/// The directory's number, none if it is new; an error when it is not this server's.
fn check(path: &Path, server: ServerId) -> Result<Option<DirectoryId>, OpenError> {
    let manifest_path = path.join(MANIFEST);
    match read_manifest(&manifest_path)? {
        None => check_empty(path).map(|()| None),
        Some(manifest) if manifest.server == server.0 => Ok(Some(manifest.id)),
        Some(manifest) => Err(OpenError::OtherServer {
            path: manifest_path,
            found: ServerId(manifest.server),
            expected: server,
        }),
    }
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>, OpenError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(OpenError::io("read", path))?,
    };
    let foreign = |found: String| OpenError::Foreign {
        path: path.to_owned(),
        found,
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| foreign(format!("it is not JSON ({error})")))?;
    // The version is looked at before the rest, which another release may have laid out differently.
    let found = value
        .get("format")
        .and_then(serde_json::Value::as_u64)
        .and_then(|format| u32::try_from(format).ok())
        .ok_or_else(|| foreign("it has no number `format`".into()))?;
    if found != DIRECTORY_VERSION {
        return Err(OpenError::Version {
            path: path.to_owned(),
            found,
            reads: DIRECTORY_VERSION,
        });
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| foreign(error.to_string()))
}

/// A directory without a manifest is new, or one whose making was cut short, or not ours.
fn check_empty(path: &Path) -> Result<(), OpenError> {
    let first_log_bytes = (HEAD_BYTES + HEADER_BYTES + START_BYTES) as u64;
    for (name, file) in entries(path)? {
        let ours = match name.as_str() {
            LOCK | MANIFEST_PARTIAL => true,
            SNAPSHOTS => entries(&file)?.is_empty(),
            LOG => entries(&file)?.iter().all(|(name, file)| {
                *name == segment_name(0)
                    && fs::metadata(file).is_ok_and(|data| data.len() <= first_log_bytes)
            }),
            _ => false,
        };
        if !ours {
            let found = format!("the directory holds it, but no {MANIFEST}");
            return Err(OpenError::Foreign { path: file, found });
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, OpenError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(OpenError::io("read", dir))? {
        let entry = entry.map_err(OpenError::io("read", dir))?;
        entries.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    Ok(entries)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let open = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = open.map_err(OpenError::io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(OpenError::io("lock", path)(error)),
    }
}
