//! A snapshot is installed at a server that serves (rule S3).

use quorate_model::id::{Incarnation, ServerId, Timestamp};
use quorate_model::request::Operation;
use quorate_model::write_set::{Entry, EpochStart};

use quorate_consensus::{StateMachine as _, Verdict};

use super::Opened;
use crate::respond::{Form, Read};
use crate::route::Barrier;
use crate::testing::{TestServer, create, path, sent};

fn exists(at: &str) -> Read {
    Read::Exists {
        path: path(at),
        watch: true,
    }
}

fn start(epoch: u32, nonce: u64) -> Entry {
    Entry::EpochStart(EpochStart {
        epoch,
        leader: ServerId(2),
        incarnation: Incarnation(1),
        nonce,
        time: Timestamp(1),
        suspect: None,
    })
}

#[test]
fn e1_only_the_nonce_that_was_applied_opens_an_epoch() {
    let server = TestServer::new();
    let applier = server.applier();
    let opened = applier.opened();
    let client = server.open_session();
    let write = Operation::Znode(create("/once", ""));
    server.write(&client, 1, write, Form::Plain);
    assert_eq!(server.edge.router.take(1).1.len(), 1);
    let epoch = server.edge.state.read().epoch() + 1;
    assert_eq!(applier.apply(&start(epoch, 7)), Verdict::Applied);
    let first = Opened { epoch, nonce: 7 };
    assert_eq!(*opened.borrow(), first);
    let again = server.edge.router.take(1).1;
    assert_eq!(again.len(), 1, "it is sent again in the new epoch");
    // Of a leader that proposed the same epoch and came second: it triggers nothing.
    assert_eq!(applier.apply(&start(epoch, 8)), Verdict::NoOp);
    assert_eq!(*opened.borrow(), first, "it does not lead");
    let again = server.edge.router.take(1).1;
    assert!(again.is_empty(), "nothing is sent again");
}

#[test]
fn s3_a_server_that_installs_a_snapshot_begins_as_if_restarted() {
    // Both have the same history up to here, and so the same session of the same client.
    let (server, ahead) = (TestServer::new(), TestServer::new());
    let (client, same) = (server.open_session(), ahead.open_session());
    let session = client.session().unwrap();
    assert_eq!(same.session(), Some(session));
    ahead.create("/missed", "");
    // This one will have ended without a word.
    let ended = server.open_session().session().unwrap();

    let (edge, applier) = (&server.edge, server.applier());
    applier.touches.open(ended, 10_000);
    let state = edge.state.clone();
    client.read(&state.read(), 1, exists("/missed"), Barrier::NONE, 20);
    sent(&client);
    let write = Operation::Znode(create("/in-flight", ""));
    server.write(&client, 2, write, Form::Plain);
    let taken = edge.router.take(1).1;
    assert_eq!(taken.len(), 1, "it is on its way to the leader");

    let mut looked = 0;
    let (components, pieces) = ahead.snapshot();
    let mut chunks = pieces.into_iter().map(Ok).inspect(|_| {
        looked += 1;
        assert!(state.read().is_vacant(), "the old state has gone before");
        assert!(client.closed().is_some());
        let newcomer = server.connection();
        newcomer.read(&state.read(), 1, exists("/missed"), Barrier::NONE, 20);
        assert!(newcomer.closed().is_some(), "there is nothing to read");
        assert!(sent(&newcomer).is_empty());
    });
    let mut components = components.into_iter().map(Ok);
    applier.install(&mut components, &mut chunks).unwrap();
    drop(chunks);
    assert!(looked > 0);

    assert!(sent(&client).is_empty(), "neither answers nor events");
    let (last, digest) = {
        let (state, theirs) = (state.read(), ahead.edge.state.read());
        assert!(state.node(&path("/missed")).is_some());
        assert!(state.node(&path("/in-flight")).is_none());
        assert_eq!(state.digest(), theirs.digest());
        (theirs.last_zxid(), theirs.digest())
    };
    assert_eq!(edge.watches.last_zxid(), last);
    let newest = applier.digests.newest().unwrap();
    assert_eq!((newest.zxid, newest.digest), (last, digest));

    // Another incarnation, whose stream begins with nothing to be sent again.
    assert_eq!(edge.router.incarnation(), Incarnation(2));
    assert_eq!(edge.router.first(), (last.epoch(), 1));
    assert_eq!(edge.router.take(10).1.len(), 0);
    assert_eq!(edge.router.in_flight(), 0);
    let nobodys = Opened {
        epoch: last.epoch(),
        nonce: 0,
    };
    assert_eq!(*applier.opened().borrow(), nobodys);

    // The sessions are those of the snapshot.
    assert!(applier.touches.last(session).is_some());
    assert!(state.read().session(ended).is_none());
    assert_eq!(applier.touches.last(ended), None);

    let again = server.connection();
    again.read(&state.read(), 1, exists("/missed"), Barrier::NONE, 20);
    assert!(again.closed().is_none(), "it serves again");
}

#[test]
fn s3_a_server_that_cannot_read_the_snapshot_serves_nothing_of_either() {
    let (server, ahead) = (TestServer::new(), TestServer::new());
    ahead.create("/missed", "");
    let client = server.open_session();
    let (components, pieces) = ahead.snapshot();
    let mut components = components.into_iter().map(Ok);
    let mut cut = pieces
        .into_iter()
        .map(|piece| Ok(piece[..piece.len() - 1].to_vec()));
    let applier = server.applier();
    applier.install(&mut components, &mut cut).unwrap_err();
    assert!(client.closed().is_some());
    assert!(server.edge.state.read().is_vacant());
}
