//! The disk, behind a trait, so that a test can make it fail, and a simulation can make it slow.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The two calls that make the log durable, and on which threads the disk is waited for.
pub trait Disk: Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when the file's content, and its length, will survive a power cut.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// How long the next piece of work takes on a disk that is simulated: there it is done in place
    /// after that time, by the runtime's own thread, so that a run can be repeated exactly. `None` for a
    /// disk that takes its own time: work on it is done by threads that may block.
    fn pace(&self) -> Option<Duration> {
        None
    }
}

/// The disk.
pub struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// Does work that waits for the disk, beside the caller's thread.
pub(crate) async fn wait_for<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    match disk.pace() {
        None => tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other),
        Some(time) => {
            tokio::time::sleep(time).await;
            Ok(work())
        }
    }
}
