//! Access control lists: which permission each write takes, and in which order things are refused, as in
//! ZooKeeper's `PrepRequestProcessor`.

use quorate_model::acl::{AclEntry, Identity, permission};

use super::*;

fn at(path: &str) -> ZnodePath {
    ZnodePath::parse(path).unwrap()
}

fn anna() -> Identity {
    Identity::parse("digest:anna:secret-hash").unwrap()
}

/// To anna these permissions, to everybody those.
fn shared(of_anna: u32, of_everybody: u32) -> Acl {
    let entries = [(of_anna, anna()), (of_everybody, Identity::anyone())];
    let entry = |(permissions, identity)| AclEntry {
        permissions,
        identity,
    };
    Acl(entries.into_iter().map(entry).collect())
}

fn created(path: &str, acl: Acl) -> ZnodeOperation {
    ZnodeOperation::Create {
        path: CreatePath::parse(path, path.ends_with('-')).unwrap(),
        data: bytes::Bytes::new(),
        acl,
        lifetime: CreateLifetime::Persistent,
        with_stat: false,
    }
}

fn deleted(path: &str, version: i32) -> ZnodeOperation {
    ZnodeOperation::Delete {
        path: at(path),
        version,
    }
}

fn set(path: &str, version: i32) -> ZnodeOperation {
    ZnodeOperation::Set {
        path: at(path),
        data: bytes::Bytes::from_static(b"x"),
        version,
    }
}

fn acl_set(path: &str, acl: Acl, version: i32) -> ZnodeOperation {
    ZnodeOperation::SetAcl {
        path: at(path),
        acl,
        version,
    }
}

fn checked(path: &str, version: i32) -> ZnodeOperation {
    ZnodeOperation::Check {
        path: at(path),
        version,
    }
}

/// A world with a session whose client may have proved something.
struct Asking {
    world: World,
    session: SessionId,
}

impl Asking {
    fn new() -> Asking {
        let (world, session) = mounted(false);
        Asking { world, session }
    }

    fn ask(&mut self, proved: &[Identity], operation: Operation) -> Outcome {
        let request = Request {
            identities: Arc::new(proved.to_vec()),
            ..request(self.session, operation)
        };
        let evaluator = &mut self.world.evaluator;
        evaluator.evaluate(&request, None, self.world.now);
        let batch = evaluator.take_batch(usize::MAX).unwrap();
        let outcome = batch.transactions[0].outcome.clone().unwrap();
        self.world.propose_batch(batch);
        outcome
    }

    /// What a write comes to: `ok`, or the refusal's name.
    fn write(&mut self, proved: &[Identity], operation: ZnodeOperation) -> String {
        said(&self.ask(proved, Operation::Znode(operation)))
    }
}

fn said(outcome: &Outcome) -> String {
    let Outcome::Refused(refusal) = outcome else {
        return "ok".into();
    };
    let shown = format!("{refusal:?}");
    let name = shown.split(['(', ' ']).next();
    name.unwrap().to_owned()
}

#[test]
fn each_write_takes_its_permission_on_the_znode_or_on_its_parent() {
    let mut asking = Asking::new();
    let needed = [
        (permission::CREATE, created("/p/new", Acl::open())),
        (permission::CREATE, created("/p/new-", Acl::open())),
        (permission::WRITE, set("/p", -1)),
        (permission::READ, checked("/p", -1)),
        (permission::DELETE, deleted("/p/old", -1)),
        (permission::ADMIN, acl_set("/p", Acl::open(), -1)),
    ];
    for (number, (needed, operation)) in needed.into_iter().enumerate() {
        for applied in [true, false] {
            let made = format!("/made-{number}-{applied}");
            let below = |operation: &ZnodeOperation| moved(operation, &made);
            let (operation, wrong) = (below(&operation), below(&set("/p", -1)));
            asking.write(&[], created(&made, Acl::open()));
            asking.write(&[], created(&format!("{made}/old"), Acl::open()));
            // All but the one, to everybody; the one to anna.
            let acl = shared(needed, permission::ALL & !needed);
            assert_eq!(asking.write(&[], acl_set(&made, acl, -1)), "ok");
            if applied {
                // Else the list, and that the overlay has of the znode, is of what is not applied yet.
                asking.world.step(&Step::Apply);
            }
            assert_eq!(
                asking.write(&[], operation.clone()),
                "NoAuth",
                "{operation:?}"
            );
            if needed != permission::WRITE {
                assert_eq!(asking.write(&[], wrong), "ok");
            }
            assert_eq!(
                asking.write(&[anna()], operation.clone()),
                "ok",
                "{operation:?}"
            );
        }
    }
}

/// The same operation on another znode than `/p`.
fn moved(operation: &ZnodeOperation, to: &str) -> ZnodeOperation {
    let moved = |path: &ZnodePath| at(&path.as_str().replacen("/p", to, 1));
    let mut operation = operation.clone();
    match &mut operation {
        ZnodeOperation::Create { path, .. } => match path {
            CreatePath::Exactly(path) => *path = moved(path),
            CreatePath::Sequential { parent, .. } => *parent = moved(parent),
        },
        ZnodeOperation::Delete { path, .. }
        | ZnodeOperation::Set { path, .. }
        | ZnodeOperation::SetAcl { path, .. }
        | ZnodeOperation::Check { path, .. } => *path = moved(path),
    }
    operation
}

#[test]
fn no_node_comes_before_no_auth_and_no_auth_before_everything_else() {
    let mut asking = Asking::new();
    asking.write(&[], created("/closed", Acl::open()));
    asking.write(&[], created("/closed/child", Acl::open()));
    asking.write(
        &[],
        acl_set("/closed/child", shared(permission::ALL, 0), -1),
    );
    asking.write(
        &[],
        acl_set("/closed", shared(permission::ALL, permission::READ), -1),
    );
    for (operation, to_others, to_anna) in [
        (created("/gone/x", Acl::open()), "NoNode", "NoNode"),
        (
            created("/closed/child", Acl::open()),
            "NoAuth",
            "NodeExists",
        ),
        (deleted("/gone/x", -1), "NoNode", "NoNode"),
        // The parent's list is asked before the znode is looked for.
        (deleted("/closed/x", -1), "NoAuth", "NoNode"),
        (deleted("/closed/child", 7), "NoAuth", "BadVersion"),
        (set("/closed/x", -1), "NoNode", "NoNode"),
        (set("/closed", 7), "NoAuth", "BadVersion"),
        (acl_set("/closed/x", Acl::open(), -1), "NoNode", "NoNode"),
        (acl_set("/closed", Acl::open(), 7), "NoAuth", "BadVersion"),
        (
            acl_set("/closed", Acl(Arc::new([])), -1),
            "InvalidAcl",
            "InvalidAcl",
        ),
        (checked("/closed", 7), "BadVersion", "BadVersion"),
        (checked("/closed/child", 7), "NoAuth", "BadVersion"),
        (deleted("/", -1), "BadArguments", "BadArguments"),
    ] {
        assert_eq!(
            asking.write(&[], operation.clone()),
            to_others,
            "{operation:?}"
        );
        assert_eq!(
            asking.write(&[anna()], operation.clone()),
            to_anna,
            "{operation:?}"
        );
    }
    // Its own list does not matter to who deletes it.
    let other = Identity::parse("ip:10.0.0.1").unwrap();
    let opened = acl_set("/closed", Acl::open(), -1);
    assert_eq!(asking.write(&[anna()], opened), "ok");
    assert_eq!(asking.write(&[other], deleted("/closed/child", -1)), "ok");
}

#[test]
fn a_refusal_names_the_znode_the_permission_and_who_may_but_no_hash() {
    let mut asking = Asking::new();
    asking.write(
        &[],
        created("/closed", shared(permission::ALL, permission::READ)),
    );
    let Outcome::Refused(refusal) = asking.ask(&[], Operation::Znode(set("/closed", -1))) else {
        panic!("it is refused");
    };
    assert_eq!(
        refusal.to_string(),
        "it takes WRITE on /closed, which its access control list does not give to you"
    );
}

#[test]
fn the_super_user_passes_every_list() {
    let mut asking = Asking::new();
    let root = [Identity::super_user()];
    asking.write(&[], created("/closed", shared(0, 0)));
    for operation in [
        set("/closed", -1),
        created("/closed/x", Acl::open()),
        deleted("/closed/x", -1),
        checked("/closed", -1),
        acl_set("/closed", Acl::open(), -1),
    ] {
        let refused = asking.write(&[anna()], operation.clone());
        assert_eq!(refused, "NoAuth", "{operation:?}");
        assert_eq!(
            asking.write(&root, operation.clone()),
            "ok",
            "{operation:?}"
        );
    }
}

#[test]
fn a_multi_is_asked_part_by_part_as_its_own_earlier_parts_leave_the_lists() {
    let mut asking = Asking::new();
    asking.write(
        &[],
        created("/closed", shared(permission::ALL, permission::READ)),
    );
    let parts = vec![
        created("/fine", shared(permission::ALL, 0)),
        checked("/closed", -1),
        set("/closed", -1),
    ];
    let outcome = asking.ask(&[], Operation::Multi(parts));
    let Outcome::Refused(Refusal::Multi { index: 2, refusal }) = outcome else {
        panic!("its third part is refused");
    };
    assert!(matches!(*refusal, Refusal::NoAuth(_)));
    assert!(asking.world.replica.stat(&at("/fine")).is_none());
    let own = vec![
        created("/fine", shared(permission::ALL, 0)),
        set("/fine", -1),
    ];
    let outcome = asking.ask(&[], Operation::Multi(own.clone()));
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::Multi { index: 1, .. })),
        "{outcome:?}"
    );
    let outcome = asking.ask(&[anna()], Operation::Multi(own));
    assert!(matches!(outcome, Outcome::Multi(_)), "{outcome:?}");
}

#[test]
fn w6_who_may_write_the_configuration_may_change_the_servers() {
    let mut asking = Asking::new();
    let root = [Identity::super_user()];
    let config = "/zookeeper/config";
    let asks = |asking: &mut Asking, proved: &[Identity]| {
        said(&asking.ask(proved, Operation::ReadConfiguration))
    };
    assert_eq!(asks(&mut asking, &[anna()]), "NoAuth");
    assert_eq!(asks(&mut asking, &root), "ok");
    let given = acl_set(config, shared(permission::WRITE, permission::READ), -1);
    assert_eq!(asking.write(&[anna()], given.clone()), "NoAuth");
    assert_eq!(asking.write(&root, given), "ok");
    assert_eq!(asks(&mut asking, &[anna()]), "ok");
    assert_eq!(asks(&mut asking, &[]), "NoAuth");
    for operation in [set(config, -1), created("/zookeeper/config/x", Acl::open())] {
        let refused = asking.write(&root, operation);
        assert_eq!(refused, "NoAuth", "not even the super user writes the data");
    }
}

#[test]
fn recipes_and_the_ends_of_sessions_are_not_asked() {
    let mut asking = Asking::new();
    let nobodys = shared(0, 0);
    assert_eq!(asking.write(&[], acl_set("/m", nobodys.clone(), -1)), "ok");
    assert_eq!(asking.write(&[], created("/m/mine", Acl::open())), "NoAuth");
    let Asking { world, session } = &mut asking;
    let outcome = world.call(*session, 1, "create");
    assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    let children = world.replica.children(&at("/m")).unwrap();
    assert!(!children.is_empty(), "it has written");

    asking.write(&[], created("/p", Acl::open()));
    let ephemeral = create_as("/p/mine", CreateLifetime::Ephemeral);
    assert_eq!(said(&asking.ask(&[], ephemeral)), "ok");
    assert_eq!(asking.write(&[], acl_set("/p", nobodys, -1)), "ok");
    assert_eq!(asking.write(&[], deleted("/p/mine", -1)), "NoAuth");
    assert_eq!(said(&asking.ask(&[], Operation::CloseSession)), "ok");
    assert!(asking.world.replica.stat(&at("/p/mine")).is_none());
}
