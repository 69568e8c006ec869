//! Who may read, and who is told of what.

use quorate_model::acl::{Acl, AclEntry, permission};

use super::*;

fn anna() -> Identity {
    Identity::parse("digest:anna:secret-hash").unwrap()
}

/// Lets anna do everything, and everybody what is said.
fn closed_but_for(of_everybody: u32) -> Acl {
    let entries = [
        (permission::ALL, anna()),
        (of_everybody, Identity::anyone()),
    ];
    let entry = |(permissions, identity)| AclEntry {
        permissions,
        identity,
    };
    Acl(entries.into_iter().map(entry).collect())
}

impl TestServer {
    fn set_acl(&self, at: &str, acl: Acl) {
        let (_, outcome) = self.ask(znode(ZnodeOperation::SetAcl {
            path: path(at),
            acl,
            version: -1,
        }));
        assert!(matches!(outcome, Outcome::Znode(_)), "{outcome:?}");
    }

    fn create_closed(&self, at: &str) {
        let mut operation = create(at, "");
        let ZnodeOperation::Create { acl, .. } = &mut operation else {
            panic!("it creates");
        };
        *acl = closed_but_for(permission::ALL & !permission::READ);
        self.ask(znode(operation));
    }
}

fn exists(at: &str, watch: bool) -> Read {
    Read::Exists {
        path: path(at),
        watch,
    }
}

fn acl_of(connection: &Connection) -> Acl {
    let frames = sent(connection);
    let answer = Response::decode(opcode::GET_ACL, &frames[0]).unwrap();
    match answer.body {
        ResponseBody::Acl { acl, .. } => acl,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_take_read_and_exists_takes_nothing() {
    let server = TestServer::new();
    server.create("/a", "secret");
    server.set_acl(
        "/a",
        closed_but_for(permission::ALL & !(permission::READ | permission::ADMIN)),
    );
    let (stranger, friend) = (server.open_session(), server.open_session());
    friend.prove(Arc::new(vec![anna()]));
    let acl = || Read::Acl { path: path("/a") };
    let reads = [
        get("/a", true),
        children("/a", true),
        acl(),
        exists("/a", false),
    ];
    for (xid, wanted) in (1..).zip(reads) {
        read(&server, &stranger, xid, wanted.clone());
        read(&server, &friend, xid, wanted);
    }
    read(&server, &stranger, 5, get("/none", false));
    assert_eq!(
        told(&stranger),
        [
            "1 NoAuth as of 5",
            "2 NoAuth as of 5",
            "3 NoAuth as of 5",
            "4 as of 5",
            "5 NoNode as of 5"
        ]
    );
    assert_eq!(
        told(&friend),
        ["1 as of 5", "2 as of 5", "3 as of 5", "4 as of 5"]
    );
    assert_eq!(
        server.edge.watches.count(),
        2,
        "a refused read sets no watch"
    );
    // A read that has waited for a write is asked no less.
    server.write(&stranger, 6, znode(set("/a", "more")), Form::Plain);
    read(&server, &stranger, 7, get("/a", false));
    server.step();
    assert_eq!(told(&stranger), ["6 as of 6", "7 NoAuth as of 6"]);
    stranger.prove(Arc::new(vec![anna()]));
    read(&server, &stranger, 8, get("/a", false));
    assert_eq!(told(&stranger), ["8 as of 6"]);
}

#[test]
fn hashes_of_a_list_are_shown_to_who_may_set_it() {
    let server = TestServer::new();
    server.create("/a", "");
    let given = closed_but_for(permission::READ);
    server.set_acl("/a", given.clone());
    let (stranger, friend) = (server.open_session(), server.open_session());
    friend.prove(Arc::new(vec![anna()]));
    for connection in [&stranger, &friend] {
        read(&server, connection, 1, Read::Acl { path: path("/a") });
    }
    let masked = acl_of(&stranger);
    assert_eq!(masked.0[0].identity.to_string(), "digest:anna:x");
    assert_eq!(masked.0[1], given.0[1]);
    assert_eq!(acl_of(&friend), given);
    let of_root = server.open_session();
    of_root.prove(Arc::new(vec![Identity::super_user()]));
    read(&server, &of_root, 1, Read::Acl { path: path("/a") });
    assert_eq!(acl_of(&of_root), given);
}

/// A stranger and a friend, who both have these watches.
fn watching(server: &TestServer, watches: &[Read]) -> [Arc<Connection>; 2] {
    let both = [server.open_session(), server.open_session()];
    for connection in &both {
        for watch in watches {
            read(server, connection, 1, watch.clone());
        }
        sent(connection);
    }
    // What is proved after a watch was set counts.
    both[1].prove(Arc::new(vec![anna()]));
    both
}

#[test]
fn an_event_is_told_to_who_may_read_the_znode_when_it_happens() {
    let server = TestServer::new();
    server.create("/a", "");
    let closed = || closed_but_for(permission::ALL & !permission::READ);
    let [stranger, friend] = watching(&server, &[get("/a", true)]);
    server.set_acl("/a", closed());
    server.set("/a", "one");
    assert_eq!(told(&stranger), [""; 0]);
    assert_eq!(told(&friend), ["NodeDataChanged /a as of 6"]);
    // The watch has fired all the same.
    server.set_acl("/a", Acl::open());
    server.set("/a", "two");
    assert_eq!((told(&stranger), told(&friend)), (vec![], vec![]));

    // Of a deleted znode the list that it had.
    let [stranger, friend] = watching(&server, &[get("/a", true), children("/a", true)]);
    server.set_acl("/a", closed());
    server.delete("/a");
    assert_eq!(told(&stranger), [""; 0]);
    assert_eq!(told(&friend).len(), 1);

    // Of a new one its own, and of its parent that one's.
    let watches = [exists("/a", true), children("/", true)];
    let [stranger, friend] = watching(&server, &watches);
    server.create_closed("/a");
    assert_eq!(told(&stranger), ["NodeChildrenChanged / as of 15"]);
    assert_eq!(
        told(&friend),
        ["NodeCreated /a as of 15", "NodeChildrenChanged / as of 15"]
    );

    server.set_acl("/a", Acl::open());
    let [stranger, friend] = watching(&server, &[children("/a", true), exists("/a/b", true)]);
    server.set_acl("/a", closed());
    server.create("/a/b", "");
    assert_eq!(told(&stranger), ["NodeCreated /a/b as of 20"]);
    assert_eq!(
        told(&friend),
        [
            "NodeCreated /a/b as of 20",
            "NodeChildrenChanged /a as of 20"
        ]
    );
    assert_eq!(server.edge.metrics.events.get(), 8);
}

#[test]
fn an_event_of_a_znode_that_its_transaction_deletes_is_judged_by_the_list_that_it_had() {
    let server = TestServer::new();
    server.create("/a", "");
    let [stranger, friend] = watching(&server, &[get("/a", true), children("/a", true)]);
    server.set_acl("/a", closed_but_for(permission::ALL & !permission::READ));
    let delete = |at| ZnodeOperation::Delete {
        path: path(at),
        version: -1,
    };
    // The first of them fires; in the end the znode has an open list.
    let parts = vec![
        set("/a", "x"),
        create("/a/b", ""),
        delete("/a/b"),
        delete("/a"),
        create("/a", ""),
    ];
    server.write(
        &friend,
        2,
        Operation::Multi(parts),
        Form::Multi {
            parts: 5,
            malformed: None,
        },
    );
    server.step();
    assert_eq!(told(&stranger), [""; 0]);
    assert_eq!(
        told(&friend),
        [
            "NodeDataChanged /a as of 6",
            "NodeChildrenChanged /a as of 6",
            "2 as of 6"
        ]
    );
}
