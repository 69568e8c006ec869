//! Places for connections: so many in all, and so many of one address.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

/// How many connections there may be.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) total: usize,
    /// Of one address.
    pub(crate) per_address: usize,
}

/// How many connections there are, in all and by address.
#[derive(Default)]
pub(crate) struct Places {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Place {
    /// Takes a place for a connection of `address`; none if there are too many.
    pub(crate) fn take(places: &Arc<Places>, bounds: Bounds, address: IpAddr) -> Option<Place> {
        let mut taken = places.taken.lock();
        let of_address = taken.of_address.get(&address).copied().unwrap_or(0);
        if taken.total >= bounds.total || of_address >= bounds.per_address {
            return None;
        }
        taken.total += 1;
        taken.of_address.insert(address, of_address + 1);
        Some(Place {
            places: places.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.total -= 1;
        if let Some(of_address) = taken.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.of_address.remove(&self.address);
            }
        }
    }
}
