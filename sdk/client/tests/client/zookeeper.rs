//! The znode part against a real ZooKeeper.

use quorate_client::{
    Acl, Client, ClientError, Create, CreateMode, ErrorCode, EventType, MultiOperation,
    MultiResult, Options,
};

type Outcome = Result<(), ClientError>;

#[tokio::test]
#[ignore = "needs a ZooKeeper whose address is in QUORATE_TEST_ZOOKEEPER, as host:port"]
async fn znodes_watches_and_multis_work_against_zookeeper() -> Outcome {
    let server = std::env::var("QUORATE_TEST_ZOOKEEPER").expect("QUORATE_TEST_ZOOKEEPER=host:port");
    let client = Client::connect(&server, Options::default()).await?;
    let other = Client::connect(&server, Options::default()).await?;
    let root = format!("/quorate-client-{:x}", client.session().0);
    let path = |name: &str| format!("{root}/{name}");

    client.create_parents(&path("a/b")).await?;
    let created = client
        .create(&path("a/b"), "old", CreateMode::Persistent)
        .await?;
    assert_eq!(created, path("a/b"));
    let again = client
        .create(&path("a/b"), "old", CreateMode::Persistent)
        .await;
    assert!(again.is_err_and(|error| error.is_node_exists()));
    assert!(
        client
            .get(&path("none"))
            .await
            .is_err_and(|error| error.is_no_node())
    );

    let (data, stat, watch) = client.get_and_watch(&path("a/b")).await?;
    assert_eq!(
        (&data[..], stat.version, stat.data_length),
        (&b"old"[..], 0, 3)
    );
    other.set(&path("a/b"), "new", Some(0)).await?;
    assert_eq!(watch.fired().await?.event, EventType::NodeDataChanged);
    client.sync(&root).await?;
    assert_eq!(&client.get(&path("a/b")).await?.0[..], b"new");
    let stale = client.set(&path("a/b"), "newer", Some(0)).await;
    let code = ErrorCode::BadVersion;
    assert_eq!(
        stale,
        Err(ClientError::Znode {
            path: path("a/b"),
            code
        })
    );

    let (absent, watch) = client.exists_and_watch(&path("e")).await?;
    assert_eq!(absent, None);
    let (_, _, children) = client.children_and_watch(&root).await?;
    other.create(&path("e"), "", CreateMode::Ephemeral).await?;
    assert_eq!(watch.fired().await?.event, EventType::NodeCreated);
    assert_eq!(
        children.fired().await?.event,
        EventType::NodeChildrenChanged
    );
    let owner = client
        .exists(&path("e"))
        .await?
        .map(|stat| stat.ephemeral_owner);
    assert_eq!(owner, Some(other.session().0.cast_signed()));
    let (_, watch) = client.exists_and_watch(&path("e")).await?;
    other.close().await?;
    assert_eq!(watch.fired().await?.event, EventType::NodeDeleted);

    let numbered = client
        .create(&path("n-"), "", CreateMode::PersistentSequential)
        .await?;
    assert!(numbered.starts_with(&path("n-0000")), "{numbered}");
    client.create(&path("c"), "", CreateMode::Container).await?;
    let (mut names, stat) = client.children(&root).await?;
    names.sort();
    assert_eq!(names, ["a", "c", &numbered[root.len() + 1..]]);
    assert_eq!(stat.num_children, 3);

    let (acl, _) = client.get_acl(&root).await?;
    assert_eq!(acl, Acl::open());
    client.set_acl(&root, Acl::open(), Some(0)).await?;
    let empty = client.set_acl(&root, Acl::from(vec![]), None).await;
    let code = ErrorCode::InvalidAcl;
    assert_eq!(
        empty,
        Err(ClientError::Znode {
            path: root.clone(),
            code
        })
    );

    let create = Create {
        path: path("m"),
        data: "m".into(),
        acl: Acl::open(),
        flags: CreateMode::Persistent.flags(),
    };
    let delete = |version| MultiOperation::Delete {
        path: path("c"),
        version,
    };
    let results = client
        .multi(vec![MultiOperation::Create(create.clone()), delete(9)])
        .await;
    let code = ErrorCode::BadVersion;
    assert_eq!(
        results,
        Err(ClientError::Multi {
            index: 1,
            path: path("c"),
            code
        })
    );
    let results = client
        .multi(vec![MultiOperation::Create2(create), delete(-1)])
        .await?;
    // ZooKeeper 3.8 answers a create2 within a multi as a create.
    let created = MultiResult::Create { path: path("m") };
    assert_eq!(results, [created, MultiResult::Delete]);

    // Many at once, over one connection.
    let gets = (0..2000).map(|_| {
        let (client, path) = (client.clone(), path("m"));
        tokio::spawn(async move { client.get(&path).await })
    });
    for get in gets.collect::<Vec<_>>() {
        assert_eq!(&get.await.expect("no panic")?.0[..], b"m");
    }

    let call = client
        .call("/locks", "acquire", serde_json::json!(["a"]))
        .await;
    assert_eq!(call, Err(ClientError::NoCalls));
    // ZooKeeper closes over that; the session goes on.
    for name in ["m", "a/b", "a", &numbered[root.len() + 1..]] {
        let deleted = client.delete(&path(name), None).await;
        if deleted == Err(ClientError::ConnectionLost) {
            let _ = client.delete(&path(name), None).await;
        }
    }
    client.delete(&root, None).await?;
    client.close().await
}
