//! What znodes cost in memory (rule N3). A process of its own, in which nothing else allocates.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::id::{Incarnation, ServerId, SessionId, Timestamp};
use quorate_model::path::ZnodePath;
use quorate_model::write_set::{Batch, Change, Entry, EpochStart, Transaction};
use quorate_model::znode::Lifetime;
use quorate_tree::{State, Verdict};

/// Counts what is allocated now, in bytes as they were asked for.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all of it is the system's allocator's; counting touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PARENTS: usize = 200;
const CHILDREN: usize = 1000;

/// What a znode with 100 bytes of data may cost, by the rule. What the allocator adds is not counted: it depends on
/// the machine.
const MOST_BYTES: usize = 200;

fn create(path: &str) -> Change {
    Change::CreateNode {
        path: ZnodePath::parse(path).unwrap(),
        data: Bytes::from_static(&[7; 100]),
        acl: Acl::open(),
        lifetime: Lifetime::Persistent,
    }
}

#[test]
fn n3_a_znode_of_100_bytes_costs_about_200_all_included() {
    let mut state = State::new();
    let start = Entry::EpochStart(EpochStart {
        epoch: 1,
        leader: ServerId(1),
        incarnation: Incarnation(1),
        nonce: 1,
        time: Timestamp(1_800_000_000_000),
        suspect: None,
    });
    state.apply(&start, |_, _, _| {}).unwrap();
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    for parent in 0..PARENTS {
        let path = format!("/service-{parent:03}");
        let children = (0..CHILDREN).map(|child| create(&format!("{path}/instance-{child:010}")));
        let transaction = Transaction {
            time: Timestamp(1_800_000_000_000 + parent as u64),
            origin: None,
            session: SessionId::NONE,
            changes: std::iter::once(create(&path)).chain(children).collect(),
            outcome: None,
        };
        let batch = Batch {
            epoch: 1,
            first_counter: 1 + parent as u32,
            transactions: vec![transaction],
        };
        let verdict = state.apply(&Entry::Transactions(batch), |_, _, _| {});
        assert_eq!(verdict, Ok(Verdict::Applied));
    }
    let znodes = PARENTS * (CHILDREN + 1);
    let each = (LIVE_BYTES.load(Ordering::Relaxed) - before) / znodes;
    println!("{znodes} znodes of 100 bytes: {each} bytes each");
    assert!(each <= MOST_BYTES, "{each} bytes for each znode");
    assert!(each > 100, "the data are counted: {each}");
    drop(state);
}
