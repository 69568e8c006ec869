//! The peer port against whoever connects to it: garbage, silence, claims that are too large, wrong addresses, broken transfers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_model::id::ServerId;
use quorate_model::recipe::RecipeDigest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::ensemble::{Ensemble, address, within};
use super::mesh::Mesh;
use super::tally::{Server, Tally};
use crate::peer::acquaintances::{Acquaintances, DirectoryId};
use crate::peer::dial::{ConnectError, Dialer};
use crate::peer::hello::Caller;
use crate::peer::hello::{Hello, Purpose};
use crate::peer::lane::{CallError, LAST, Lane, MORE};
use crate::peer::transfer;
use crate::raft::{Member, Membership, SnapshotMeta, StoredMembership, Vote, log_id};
use crate::snapshot::SnapshotStore;
use crate::{Config, Consensus, Health, RealDisk, Tcp, Transport};

/// One server on TCP, and its port's address.
async fn server(dir: &std::path::Path) -> (Server, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    let tally = Arc::new(Tally::default());
    let transport: Arc<dyn Transport> = Arc::new(Tcp::new(Some(listener)));
    let config = Config::new(dir, ServerId(1));
    let consensus = Consensus::open_with_peers(config, tally.clone(), transport).await;
    (
        Server::lead(consensus.expect("it opens"), tally).await,
        address,
    )
}

/// Of a server that knows nobody yet.
fn acquaintances(server: u64) -> Arc<Acquaintances> {
    Arc::new(Acquaintances::new(server, DirectoryId(server), false))
}

fn dialer(address: &str, to: u64, purpose: Purpose) -> Dialer {
    Dialer {
        transport: Arc::new(Tcp::new(None)),
        address: address.to_owned(),
        hello: Hello {
            from: 2,
            to,
            directory: DirectoryId(2),
            purpose,
        },
        acquaintances: acquaintances(2),
    }
}

/// Reads until the other side ends the connection.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // Reset or closed, both will do.
    let _ = within("the connection ends", stream.read_to_end(&mut rest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silence_end_in_closed_connections_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, address) = server(dir.path()).await;
    let hello = b"quorpeer\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01";
    let framed = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let mut cases = vec![
        b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".to_vec(),
        vec![0xff; 10_000],
        u32::MAX.to_be_bytes().to_vec(),
        framed(b""),
        framed(&hello[..10]),
        framed(hello),
        framed(&[&hello[..], &[77]].concat()),
        // Half-open: nothing, and half a hello.
        Vec::new(),
        framed(hello)[..9].to_vec(),
    ];
    for purpose in 1..=4 {
        let hello = framed(&[&hello[..], &[purpose]].concat());
        // A claim beyond the bound, and a frame that is no message.
        cases.push([&hello[..], &u32::MAX.to_be_bytes()].concat());
        cases.push([&hello[..], &framed(&[0xff; 40])].concat());
        cases.push([&hello[..], &framed(&[])].concat());
    }
    let attempts = cases.into_iter().map(|case| {
        let address = address.clone();
        async move {
            let mut stream = TcpStream::connect(&address).await.expect("accepted");
            let _ = stream.write_all(&case).await;
            ended(&mut stream).await;
        }
    });
    futures_util::future::join_all(attempts).await;
    server.write(10).await;
    assert_eq!(*server.consensus.health().borrow(), Health::Running);
    server.consensus.shutdown().await;
    assert!(
        TcpStream::connect(&address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_at_a_wrong_address_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server, address) = server(dir.path()).await;
    let refused = dialer(&address, 3, Purpose::Log).dial().await;
    match refused {
        Err(ConnectError::Refused { reason, .. }) => {
            assert!(reason.contains("this is server 1, not 3"), "{reason}");
        }
        _ => panic!("it was taken for server 3"),
    }
    assert!(dialer(&address, 1, Purpose::Control).dial().await.is_ok());
    server.consensus.shutdown().await;
    let gone = dialer(&address, 1, Purpose::Control).dial().await;
    assert!(gone.is_err_and(|error| error.nobody_listens()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_transfer_leaves_nothing_behind() {
    let ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(20).await;
    let victim = if first == 1 { 2 } else { 1 };
    let transport = ensemble.mesh.end("elsewhere:1");
    let dial = async || {
        let dialer = Dialer {
            transport: transport.clone(),
            address: address(victim),
            hello: Hello {
                from: 9,
                to: victim,
                directory: DirectoryId(9),
                purpose: Purpose::Snapshot,
            },
            acquaintances: acquaintances(9),
        };
        dialer
            .dial()
            .await
            .map_err(|error| error.to_string())
            .expect("connected")
    };
    let files = || {
        let dir = std::fs::read_dir(ensemble.snapshots(victim)).expect("readable");
        dir.map(|file| file.expect("a file").file_name())
            .collect::<Vec<_>>()
    };
    let begin = |bytes: u64| {
        let vote = Vote::new_committed(leader.term, first);
        let components: [RecipeDigest; 0] = [];
        postcard::to_stdvec(&(vote, bytes, components.as_slice())).expect("encoded")
    };
    // Half of it, and then nothing.
    let mut link = dial().await;
    link.writer.send(&begin(2000)).await.expect("sent");
    link.writer.send(&[1; 1000]).await.expect("sent");
    let mut look = tokio::time::interval(Duration::from_millis(5));
    within("it is being received", async {
        while files().is_empty() {
            look.tick().await;
        }
    })
    .await;
    drop(link);
    within("it is gone", async {
        while !files().is_empty() {
            look.tick().await;
        }
    })
    .await;
    // All of it, and not whole.
    let mut link = dial().await;
    link.writer.send(&begin(1000)).await.expect("sent");
    link.writer.send(&[1; 1000]).await.expect("sent");
    within("the end", async {
        while let Some(Ok(_)) = link.reader.next().await {}
    })
    .await;
    assert_eq!(files(), Vec::<std::ffi::OsString>::new());
    assert_eq!(
        *ensemble.consensus(victim).health().borrow(),
        Health::Running
    );
    leader.write(20).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_many_pieces_is_taken_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mesh, tally) = (Mesh::default(), Arc::new(Tally::default()));
    let mut config = Config::new(dir.path().join("5"), ServerId(5));
    config.join = true;
    let consensus = Consensus::open_with_peers(config, tally.clone(), mesh.end(&address(5))).await;
    let consensus = consensus.expect("it opens");

    let member = |server: u64| (server, Member::new(address(server)));
    let voters = vec![[9].into()];
    let membership = Membership::new(voters, std::collections::BTreeMap::from([5, 9].map(member)));
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(7, 99_999)),
        last_membership: StoredMembership::new(Some(log_id(7, 1)), membership.expect("valid")),
    };
    let from = dir.path().join("from");
    std::fs::create_dir(&from).expect("made");
    let store = SnapshotStore::open(&from).expect("opened");
    let chunks = (1..=80_u64).map(|chunk| {
        let zxids = (chunk * 5000..(chunk + 1) * 5000).flat_map(u64::to_le_bytes);
        zxids.collect::<Vec<u8>>()
    });
    let component = super::tally::component(3, 700_000);
    let components = vec![component.clone()];
    let mut writing = store.begin(meta.clone(), components).expect("begun");
    for chunk in chunks {
        writing.chunk(&chunk).expect("written");
    }
    let file = store.finish(writing).expect("in place");
    assert!(file.bytes > 3 * transfer::PIECE_BYTES as u64);

    let dialer = Dialer {
        transport: mesh.end(&address(9)),
        address: address(5),
        hello: Hello {
            from: 9,
            to: 5,
            directory: DirectoryId(9),
            purpose: Purpose::Snapshot,
        },
        acquaintances: acquaintances(9),
    };
    let vote = Vote::new_committed(7, 9);
    let mut bytes = std::fs::read(&file.path).expect("readable");
    bytes[2_000_000] ^= 1;
    let mut damaged = file.clone();
    damaged.path = dir.path().join("damaged");
    std::fs::write(&damaged.path, bytes).expect("written");
    let refused = within(
        "a refusal",
        transfer::send(&dialer, &RealDisk, vote, &damaged),
    )
    .await;
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains("it is damaged"), "{why}");
    let snapshots = || {
        std::fs::read_dir(dir.path().join("5/snapshots"))
            .expect("readable")
            .count()
    };
    // The component is whole, so it is there for the next try.
    assert_eq!((snapshots(), tally.applied().len()), (1, 0));
    // One that is another than its name says is not taken either.
    let on_disk = from.join(format!("{}.component", component.0));
    std::fs::remove_file(
        dir.path()
            .join("5/snapshots")
            .join(on_disk.file_name().expect("one")),
    )
    .expect("it is the component");
    let bytes = std::fs::read(&on_disk).expect("readable");
    std::fs::write(&on_disk, vec![0; bytes.len()]).expect("written");
    let refused = within("a refusal", transfer::send(&dialer, &RealDisk, vote, &file)).await;
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains("another digest"), "{why}");
    assert_eq!((snapshots(), tally.applied().len()), (0, 0));
    std::fs::write(&on_disk, bytes).expect("written");

    let taken = within(
        "a transfer",
        transfer::send(&dialer, &RealDisk, vote, &file),
    )
    .await;
    assert_eq!(taken.expect("taken"), vote);
    assert_eq!((snapshots(), tally.applied().len()), (2, 400_000));
    assert_eq!(*tally.components.lock(), [component]);
    assert_eq!(consensus.status().snapshot_index, Some(99_999));
    // Of a leader of the past nothing is taken, and it is told.
    let past = within(
        "an answer",
        transfer::send(&dialer, &RealDisk, Vote::new_committed(6, 8), &file),
    )
    .await;
    assert_eq!(past.expect("answered"), vote);
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_answers_in_order_and_fails_what_a_lost_connection_owes() {
    let mesh = Mesh::default();
    let here = mesh.end(&address(2));
    let lane = |stall: Duration| {
        let dialer = Dialer {
            transport: mesh.end(&address(1)),
            address: address(2),
            hello: Hello {
                from: 1,
                to: 2,
                directory: DirectoryId(1),
                purpose: Purpose::Log,
            },
            acquaintances: acquaintances(1),
        };
        Lane::new(dialer, stall)
    };
    let accept = async || {
        let socket = within("a socket", here.accept()).await.expect("accepted");
        let caller = Caller::hear(socket, 2).await.expect("a hello");
        caller.welcome(DirectoryId(2)).await.expect("there")
    };
    let patient = lane(Duration::from_secs(60));
    let ask = async |number: u8| {
        let asked = within("room", patient.enqueue(Bytes::from(vec![number; 1000]))).await;
        asked.expect("queued")
    };
    let mut asked = Vec::new();
    for number in 0..50 {
        asked.push(ask(number).await);
    }
    let mut link = accept().await;
    for number in 0..50 {
        let request = within("a request", link.reader.next())
            .await
            .expect("open")
            .expect("whole");
        assert_eq!(request, vec![number; 1000]);
        link.writer.send(&[MORE, number]).await.expect("sent");
    }
    for (number, answer) in asked.into_iter().enumerate() {
        let answer = within("an answer", answer.wait()).await.expect("answered");
        assert_eq!(answer, [number as u8][..]);
    }
    // The last answer of a connection, and what was sent behind it.
    let (last, behind) = (ask(1).await, ask(2).await);
    for _ in 0..2 {
        within("a request", link.reader.next())
            .await
            .expect("open")
            .expect("whole");
    }
    link.writer.send(&[LAST, 9]).await.expect("sent");
    assert_eq!(within("it", last.wait()).await.expect("answered"), [9][..]);
    assert_eq!(within("it", behind.wait()).await, Err(CallError::Lost));
    // What comes after goes over a new one.
    let next = ask(3).await;
    let mut link = accept().await;
    within("a request", link.reader.next())
        .await
        .expect("open")
        .expect("whole");
    link.writer.send(&[MORE, 3]).await.expect("sent");
    assert_eq!(within("it", next.wait()).await.expect("answered"), [3][..]);

    // A peer that takes requests and says nothing.
    let hasty = lane(Duration::from_millis(50));
    let silent = hasty
        .enqueue(Bytes::from_static(b"?"))
        .await
        .expect("queued");
    let _held = accept().await;
    assert_eq!(within("it", silent.wait()).await, Err(CallError::Lost));
    // A peer that is gone.
    mesh.kill(&address(2));
    let gone = hasty
        .enqueue(Bytes::from_static(b"?"))
        .await
        .expect("queued");
    let gone = within("it", gone.wait()).await;
    assert!(matches!(gone, Err(CallError::Unreachable(_))), "{gone:?}");
}
