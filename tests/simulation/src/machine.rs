//! Simulated machines: clocks that are wrong, disks that are slow and lose what was not synced, links.

mod clock;
mod disk;
mod link;

pub use clock::SimulatedHands;
pub use disk::SimulatedDisk;
pub use link::SimulatedTransport;
