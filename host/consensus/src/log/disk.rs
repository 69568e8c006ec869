//! The two calls that make the log durable, behind a trait, so that a test can make them fail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Writing and syncing.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when the file's content, and its length, will survive a power cut.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The disk.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}
