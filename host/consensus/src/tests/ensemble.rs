//! Several servers in one process: replication, elections, partitions, snapshots over the network, changes of the membership.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_model::id::{ServerId, SessionId, Timestamp};
use quorate_model::path::ZnodePath;
use quorate_model::write_set::{Batch, Change, Entry, Transaction};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::mesh::Mesh;
use super::tally::{Server, Tally, entry};
use crate::{
    Config, ConnectError, Consensus, FirstMember, MembersChange, NewMember, ReconfigureError,
    Resolution, Tcp, Transport,
};

/// Nothing here takes as long on any machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = timeout(DEADLINE, future).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

pub(super) fn address(server: u64) -> String {
    format!("host{server}:1")
}

struct Node {
    consensus: Consensus,
    tally: Arc<Tally>,
}

/// Some servers on a mesh.
pub(super) struct Ensemble {
    pub(super) mesh: Mesh,
    dir: tempfile::TempDir,
    members: Vec<FirstMember>,
    nodes: BTreeMap<u64, Node>,
    /// What each server's configuration has besides.
    adjust: fn(&mut Config),
}

impl Ensemble {
    /// Voters from 1 on, and learners behind them.
    pub(super) async fn start(voters: u64, learners: u64, adjust: fn(&mut Config)) -> Ensemble {
        let member = |server: u64| FirstMember {
            server: ServerId(server),
            address: address(server),
            votes: server <= voters,
        };
        let mut ensemble = Ensemble {
            mesh: Mesh::default(),
            dir: tempfile::tempdir().expect("a directory"),
            members: (1..=voters + learners).map(member).collect(),
            nodes: BTreeMap::new(),
            adjust,
        };
        for server in 1..=voters + learners {
            ensemble.open(server, false).await;
        }
        ensemble
    }

    pub(super) async fn three() -> Ensemble {
        Ensemble::start(3, 0, |_| {}).await
    }

    fn path(&self, server: u64) -> PathBuf {
        self.dir.path().join(server.to_string())
    }

    async fn open(&mut self, server: u64, join: bool) {
        let mut config = Config::new(self.path(server), ServerId(server));
        config.address = address(server);
        config.join = join;
        if !join {
            config.members = self.members.clone();
        }
        (self.adjust)(&mut config);
        let tally = Arc::new(Tally::default());
        let transport = self.mesh.end(&address(server));
        let consensus = Consensus::open_with_peers(config, tally.clone(), transport).await;
        let consensus = consensus.expect("it opens");
        self.nodes.insert(server, Node { consensus, tally });
    }

    pub(super) fn consensus(&self, server: u64) -> &Consensus {
        &self.nodes[&server].consensus
    }

    /// Waits until one of the servers leads, and lets it open an epoch.
    async fn leader(&self, of: &[u64]) -> (u64, Server) {
        let leading = of.iter().map(|server| {
            let mut leadership = self.nodes[server].consensus.leadership();
            Box::pin(async move {
                leadership
                    .wait_for(|now| now.leading)
                    .await
                    .expect("watched");
                *server
            })
        });
        let chosen = futures_util::future::select_all(leading);
        let (server, ..) = within("a leader", chosen).await;
        let node = &self.nodes[&server];
        let led = Server::lead(node.consensus.clone(), node.tally.clone());
        (server, within("an epoch", led).await)
    }

    pub(super) async fn any_leader(&self) -> (u64, Server) {
        self.leader(&self.servers()).await
    }

    fn servers(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn others(&self, than: u64) -> Vec<u64> {
        self.servers()
            .into_iter()
            .filter(|server| *server != than)
            .collect()
    }

    /// Waits until all servers have applied what the leader has, and compares their states.
    async fn agree(&self, leader: &Server) {
        let index = leader.consensus.status().applied_index.expect("applied");
        for (server, node) in &self.nodes {
            within(
                &format!("server {server} at {index}"),
                node.consensus.applied(index),
            )
            .await
            .expect("it runs");
            assert_eq!(
                node.tally.applied(),
                leader.tally.applied(),
                "server {server}"
            );
        }
    }

    /// As `kill -9` does.
    fn kill(&mut self, server: u64) {
        self.mesh.kill(&address(server));
        self.nodes.remove(&server);
    }

    fn cut(&self, server: u64, open: bool) {
        for other in self.others(server) {
            self.mesh.set_link(&address(server), &address(other), open);
        }
    }

    pub(super) fn snapshots(&self, server: u64) -> PathBuf {
        self.path(server).join("snapshots")
    }

    pub(super) async fn stop(self) {
        for node in self.nodes.values() {
            node.consensus.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_reach_every_server() {
    let ensemble = Ensemble::start(3, 1, |_| {}).await;
    let (_, mut leader) = ensemble.any_leader().await;
    leader.write(500).await;
    // The learner is added by whoever leads.
    let mut members = leader.consensus.members();
    let added = members.wait_for(|now| now.learners.contains(&ServerId(4)) && !now.changing);
    let members = within("the learner", added).await.expect("watched").clone();
    assert_eq!(members.voters.len(), 3);
    assert_eq!(members.addresses[&ServerId(4)], address(4));
    leader.write(500).await;
    ensemble.agree(&leader).await;
    assert_eq!(leader.tally.applied().len(), 1001);
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(300).await;
    let acknowledged = leader.tally.applied();
    let mut unacknowledged = Vec::new();
    for _ in 0..20 {
        unacknowledged.push(leader.propose().await);
    }
    drop(leader);
    ensemble.kill(first);
    for proposal in unacknowledged {
        // The state is the survivors' to tell; here nothing may wait for ever.
        within("a resolution", proposal).await;
    }
    let (second, mut leader) = ensemble.any_leader().await;
    assert_ne!(first, second);
    leader.write(300).await;
    assert_eq!(leader.tally.applied()[..acknowledged.len()], acknowledged);
    ensemble.open(first, false).await;
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_leading_and_its_tail_is_gone_when_it_is_back() {
    let ensemble = Ensemble::three().await;
    let (first, mut old) = ensemble.any_leader().await;
    old.write(100).await;
    ensemble.cut(first, false);
    let mut tail = Vec::new();
    for _ in 0..50 {
        tail.push(old.propose().await);
    }
    let mut leadership = old.consensus.leadership();
    let stopped = leadership.wait_for(|now| !now.leading);
    within("the old leader stops", stopped)
        .await
        .expect("watched");
    for proposal in tail {
        assert_eq!(within("a resolution", proposal).await, Resolution::Unknown);
    }
    assert!(old.consensus.read_index().await.is_err());

    let (second, mut leader) = ensemble.leader(&ensemble.others(first)).await;
    assert_ne!(first, second);
    leader.write(100).await;
    let index = leader.consensus.read_index().await.expect("it leads");
    assert!(Some(index) >= leader.consensus.status().applied_index);
    ensemble.cut(first, true);
    ensemble.agree(&leader).await;
    let mut leadership = ensemble.consensus(first).leadership();
    let follows = leadership.wait_for(|now| now.leader == Some(ServerId(second)));
    within("the old leader follows", follows)
        .await
        .expect("watched");
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_leader_lost_the_lead_is_not_said_to_be_undone() {
    let ensemble = Ensemble::three().await;
    let (first, old) = ensemble.any_leader().await;
    let removed = ensemble.others(first)[0];
    ensemble.cut(first, false);
    let change = tokio::spawn({
        let consensus = old.consensus.clone();
        async move { consensus.remove(ServerId(removed)).await }
    });
    let (_, _leader) = ensemble.leader(&ensemble.others(first)).await;
    ensemble.cut(first, true);
    let told = within("an answer", change).await.expect("no panic");
    assert!(
        matches!(told, Err(ReconfigureError::Unknown(_))),
        "{told:?}"
    );
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_purged_log_gets_a_snapshot() {
    let mut ensemble = Ensemble::start(3, 0, |config| {
        config.keep_log_bytes = 0;
        config.segment_bytes = 2000;
    })
    .await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(100).await;
    let away = ensemble.others(first)[0];
    ensemble.consensus(away).shutdown().await;
    ensemble.kill(away);
    leader.write(300).await;
    leader.consensus.take_snapshot().await.expect("running");
    let purged = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while leader.consensus.status().purged_index < Some(300) {
            look.tick().await;
        }
    };
    within("the log is purged", purged).await;
    leader.write(50).await;
    ensemble.open(away, false).await;
    ensemble.agree(&leader).await;
    let status = ensemble.consensus(away).status();
    assert!(status.snapshot_index >= Some(300), "{status:?}");
    assert!(
        status.applied_entries < 200,
        "it came by the log: {status:?}"
    );
    let files = std::fs::read_dir(ensemble.snapshots(away)).expect("readable");
    assert_eq!(files.count(), 1, "nothing is left of the transfer");
    // What was received is good for a restart.
    ensemble.consensus(away).shutdown().await;
    ensemble.kill(away);
    ensemble.open(away, false).await;
    leader.write(5).await;
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_promoted_and_removed_under_load() {
    let mut ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(50).await;
    let consensus = leader.consensus.clone();
    let follower = ensemble.others(first)[0];
    let refusal = |result: Result<(), ReconfigureError>| match result {
        Err(ReconfigureError::Refused(why) | ReconfigureError::NoQuorum(why)) => why,
        other => panic!("not refused: {other:?}"),
    };

    let mut leadership = ensemble.consensus(follower).leadership();
    let knows = leadership.wait_for(|now| now.leader == Some(ServerId(first)));
    within("the follower knows who leads", knows)
        .await
        .expect("watched");
    let elsewhere = ensemble
        .consensus(follower)
        .add(ServerId(4), address(4))
        .await;
    let leads = Some(ServerId(first));
    assert_eq!(
        elsewhere,
        Err(ReconfigureError::NotLeading { leader: leads })
    );
    assert!(refusal(consensus.promote(ServerId(4)).await).contains("add it first"));
    assert!(refusal(consensus.remove(ServerId(4)).await).contains("no member"));
    assert!(refusal(consensus.remove(ServerId(first)).await).contains("transfer the lead"));
    assert!(refusal(consensus.add(ServerId(4), "host4".into()).await).contains("host:port"));
    assert!(refusal(consensus.add(ServerId(4), address(1)).await).contains("address of server 1"));
    assert!(refusal(consensus.transfer_leader(ServerId(4)).await).contains("no voter"));

    ensemble.open(4, true).await;
    consensus.add(ServerId(4), address(4)).await.expect("added");
    consensus
        .add(ServerId(4), address(4))
        .await
        .expect("as before");
    let promoted = async {
        let mut again = tokio::time::interval(Duration::from_millis(10));
        while let Err(error) = consensus.promote(ServerId(4)).await {
            assert!(matches!(error, ReconfigureError::NoQuorum(_)), "{error}");
            leader.write(5).await;
            again.tick().await;
        }
    };
    within("a promotion", promoted).await;
    let members = consensus.members().borrow().clone();
    assert!(members.voters.contains(&ServerId(4)), "{members:?}");

    // A rolling replacement: one goes, the lead goes to the new one, and the old leader goes.
    consensus.remove(ServerId(follower)).await.expect("removed");
    consensus
        .remove(ServerId(follower))
        .await
        .expect_err("it is no member");
    ensemble.consensus(follower).shutdown().await;
    ensemble.kill(follower);
    leader.write(50).await;
    ensemble.agree(&leader).await;
    let other = ensemble
        .others(first)
        .into_iter()
        .find(|other| *other != 4)
        .expect("three");
    consensus
        .transfer_leader(ServerId(4))
        .await
        .expect("handed over");
    let (now, mut leader) = ensemble.leader(&[4]).await;
    assert_eq!(now, 4);
    leader
        .consensus
        .remove(ServerId(first))
        .await
        .expect("removed");
    ensemble.consensus(first).shutdown().await;
    ensemble.kill(first);
    leader.write(50).await;
    ensemble.agree(&leader).await;
    ensemble.kill(other);
    let why = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            match leader.consensus.add(ServerId(9), "host9".into()).await {
                // It has lost its quorum and the lead.
                Err(ReconfigureError::NotLeading { .. }) => return,
                Err(ReconfigureError::Refused(_))
                    if !leader.consensus.leadership().borrow().leading =>
                {
                    return;
                }
                _ => again.tick().await,
            };
        }
    };
    within("the quorum is lost", why).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_members_change_at_once_and_the_leader_may_be_among_them() {
    let mut ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(50).await;
    let joining = |server: u64, votes| NewMember {
        server: ServerId(server),
        address: address(server),
        client: format!("host{server}:2"),
        votes,
    };
    let leaving = BTreeSet::from([ServerId(first)]);
    let mut change = MembersChange {
        joining: vec![joining(4, true), joining(5, false)],
        leaving,
        others_leave: false,
        from: Some(7_000_000),
    };
    let refused = leader.consensus.reconfigure(change.clone()).await;
    assert!(
        matches!(refused, Err(ReconfigureError::Version { .. })),
        "{refused:?}"
    );
    change.from = leader.consensus.members().borrow().index;
    // The leader hands the lead over first, and has changed nothing.
    let handed = leader.consensus.reconfigure(change.clone()).await;
    let Err(ReconfigureError::NotLeading { leader: Some(heir) }) = handed else {
        panic!("{handed:?}");
    };
    ensemble.open(4, true).await;
    ensemble.open(5, true).await;
    let (_, mut leader) = ensemble.leader(&[heir.0]).await;
    assert_eq!(leader.consensus.members().borrow().index, change.from);
    let index = leader.consensus.reconfigure(change.clone()).await;
    let index = index.expect("changed");
    let mut members = leader.consensus.members();
    let known = members.wait_for(|now| now.index == Some(index) && !now.changing);
    let members = within("the members", known).await.expect("watched").clone();
    let mut voters: BTreeSet<ServerId> = [1, 2, 3, 4].map(ServerId).into();
    voters.remove(&ServerId(first));
    assert_eq!(members.voters, voters);
    assert_eq!(members.learners, [ServerId(5)].into());
    assert_eq!(members.clients[&ServerId(4)], "host4:2");
    ensemble.consensus(first).shutdown().await;
    ensemble.kill(first);
    leader.write(50).await;
    ensemble.agree(&leader).await;
    // Asked once more, there is nothing to do.
    change.from = None;
    assert_eq!(leader.consensus.reconfigure(change).await, Ok(index));
    let none = MembersChange {
        others_leave: true,
        ..MembersChange::default()
    };
    let refused = leader.consensus.reconfigure(none).await;
    assert!(
        matches!(refused, Err(ReconfigureError::Refused(_))),
        "{refused:?}"
    );
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_known_with_its_clients_address_once_it_has_said_so() {
    let ensemble = Ensemble::start(3, 1, |_| {}).await;
    let (first, leader) = ensemble.any_leader().await;
    let follower = ensemble.consensus(ensemble.others(first)[0]);
    let said = follower.announce_client(ServerId(4), "host4:2".into());
    assert!(
        matches!(said, Err(ReconfigureError::NotLeading { .. })),
        "{said:?}"
    );
    let mut members = follower.members();
    // What is said before it is known as a member is forgotten, so servers say it again.
    let known = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            for (server, client) in [(4, "host4:2"), (9, "nobody:2")] {
                let said = leader
                    .consensus
                    .announce_client(ServerId(server), client.into());
                said.expect("heard");
            }
            let now = members.borrow_and_update().clone();
            match now.clients.get(&ServerId(4)) {
                Some(at) if at == "host4:2" => return now,
                _ => again.tick().await,
            };
        }
    };
    let now = within("its clients' address", known).await;
    assert_eq!(
        now.learners,
        [ServerId(4)].into(),
        "the first learner was added all the same"
    );
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    let others = ensemble.others(first);
    ensemble.kill(others[0]);
    leader.write(10).await;
    let gone = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let heard = || leader.consensus.status().followers[&ServerId(others[0])].heard_ms;
        while heard().is_some_and(|heard| heard < 600) {
            look.tick().await;
        }
    };
    within("it counts as gone", gone).await;
    let why = leader.consensus.transfer_leader(ServerId(others[0])).await;
    let why = why.expect_err("refused").to_string();
    assert!(why.contains("does not answer"), "{why}");
    let why = leader
        .consensus
        .remove(ServerId(others[1]))
        .await
        .expect_err("refused");
    assert!(why.to_string().contains("lose the quorum"), "{why}");
    leader
        .consensus
        .remove(ServerId(others[0]))
        .await
        .expect("the dead one may go");
    leader.write(10).await;
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_that_was_killed_as_a_whole_goes_on() {
    let mut ensemble = Ensemble::start(3, 1, |_| {}).await;
    for round in 1..=3 {
        let (_, mut leader) = ensemble.any_leader().await;
        leader.write(100).await;
        assert_eq!(leader.tally.applied().len(), round * 101);
        drop(leader);
        for server in ensemble.servers() {
            ensemble.kill(server);
        }
        for server in [4, 3, 2, 1] {
            ensemble.open(server, false).await;
        }
    }
    let (_, leader) = ensemble.any_leader().await;
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_of_one_grows_once_it_has_an_address() {
    let mut ensemble = Ensemble::start(1, 0, |config| {
        config.members.clear();
        config.address.clear();
    })
    .await;
    let (_, mut leader) = ensemble.any_leader().await;
    leader.write(50).await;
    let refused = leader.consensus.add(ServerId(2), address(2)).await;
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains("no address"), "{why}");
    leader.consensus.shutdown().await;
    drop(leader);
    ensemble.kill(1);

    ensemble.adjust = |config| config.members.clear();
    ensemble.open(1, false).await;
    let (_, mut leader) = ensemble.any_leader().await;
    let mut members = leader.consensus.members();
    let known = members
        .wait_for(|now| now.addresses.get(&ServerId(1)) == Some(&address(1)) && !now.changing);
    within("its address", known).await.expect("watched");
    for server in 2..=3 {
        ensemble.open(server, true).await;
        leader
            .consensus
            .add(ServerId(server), address(server))
            .await
            .expect("added");
        let mut again = tokio::time::interval(Duration::from_millis(10));
        let promoted = async {
            while leader.consensus.promote(ServerId(server)).await.is_err() {
                again.tick().await;
            }
        };
        within("a promotion", promoted).await;
    }
    leader.write(50).await;
    ensemble.agree(&leader).await;
    drop(leader);
    ensemble.kill(1);
    let (_, mut leader) = ensemble.any_leader().await;
    leader.write(50).await;
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_added_where_it_answers_itself_and_nowhere_else() {
    let mut ensemble = Ensemble::three().await;
    let (_, leader) = ensemble.any_leader().await;
    let add = async |server: u64, address: String| {
        let added = leader.consensus.add(ServerId(server), address).await;
        added.expect_err("refused").to_string()
    };
    let several = async |server: u64, address: String| {
        let change = MembersChange {
            joining: vec![NewMember {
                server: ServerId(server),
                address,
                client: String::new(),
                votes: false,
            }],
            ..MembersChange::default()
        };
        let changed = leader.consensus.reconfigure(change).await;
        changed.expect_err("refused").to_string()
    };
    ensemble.open(5, true).await;
    // Another server than was meant, however it is asked for.
    for why in [add(4, address(5)).await, several(4, address(5)).await] {
        assert!(why.contains("this is server 5, not 4"), "{why}");
    }
    let nobody = add(4, address(4)).await;
    assert!(nobody.contains("start server 4 there first"), "{nobody}");
    let members = leader.consensus.members().borrow().clone();
    assert!(
        members.learners.is_empty(),
        "nothing was added: {members:?}"
    );

    // One that is only starting is waited for.
    let (added, ()) = tokio::join!(
        leader.consensus.add(ServerId(4), address(4)),
        ensemble.open(4, true)
    );
    added.expect("added");
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_ensemble_is_not_added() {
    let mut others = Ensemble::start(4, 0, |_| {}).await;
    let known = async {
        let mut again = tokio::time::interval(Duration::from_millis(10));
        let fourth = others.consensus(4);
        while !(1..=3).all(|server| fourth.knows_directory(ServerId(server))) {
            again.tick().await;
        }
    };
    within("they know each other", known).await;
    others.consensus(4).shutdown().await;
    others.kill(4);
    // From now on it is reached from here.
    let ensemble = Ensemble::three().await;
    let (_, leader) = ensemble.any_leader().await;
    others.mesh = ensemble.mesh.clone();
    others.open(4, false).await;
    let added = leader.consensus.add(ServerId(4), address(4)).await;
    let why = added.expect_err("refused").to_string();
    assert!(why.contains("of another ensemble"), "{why}");
    others.stop().await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_was_lost_is_refused_until_it_is_added_anew() {
    let mut ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(100).await;
    let lost = ensemble.others(first)[0];
    let all_known = || async {
        let known = |server: u64| leader.consensus.knows_directory(ServerId(server));
        let mut again = tokio::time::interval(Duration::from_millis(10));
        while !(1..=3).all(known) {
            again.tick().await;
        }
    };
    within("all are known by their data", all_known()).await;
    ensemble.kill(lost);
    std::fs::remove_dir_all(ensemble.path(lost)).expect("removed");
    leader.write(100).await;
    ensemble.open(lost, true).await;
    let met = leader.consensus.meets(ServerId(lost)).await;
    let Err(ConnectError::Stranger { reason, .. }) = met else {
        panic!("{:?}", met.map(|_| ()))
    };
    assert!(reason.contains("join under a new id"), "{reason}");
    assert_eq!(ensemble.consensus(lost).status().last_index, None);

    let removed = leader.consensus.remove(ServerId(lost)).await;
    removed.expect("removed");
    let added = leader.consensus.add(ServerId(lost), address(lost)).await;
    added.expect("added");
    leader.write(100).await;
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_has_lost_its_data_elects_nobody_over_what_is_acknowledged() {
    let mut ensemble = Ensemble::three().await;
    let (first, mut leader) = ensemble.any_leader().await;
    leader.write(50).await;
    let [behind, lost] = ensemble.others(first)[..] else {
        panic!("three servers")
    };
    ensemble.agree(&leader).await;
    let all_known = async {
        let mut again = tokio::time::interval(Duration::from_millis(10));
        let known = |server: &u64| {
            let here = ensemble.consensus(*server);
            (1..=3).all(|other| here.knows_directory(ServerId(other)))
        };
        while !ensemble.servers().iter().all(known) {
            again.tick().await;
        }
    };
    within("all are known by their data", all_known).await;
    ensemble.kill(behind);
    leader.write(50).await;
    let acknowledged = leader.tally.applied();
    drop(leader);
    ensemble.kill(first);
    ensemble.kill(lost);
    std::fs::remove_dir_all(ensemble.path(lost)).expect("removed");
    // Founded anew by its configuration, as an operator may do in a hurry.
    ensemble.open(lost, false).await;
    ensemble.open(behind, false).await;
    let elected = [behind, lost].map(|server| {
        let mut leadership = ensemble.consensus(server).leadership();
        Box::pin(async move { leadership.wait_for(|now| now.leading).await.is_ok() })
    });
    // Some election timeouts.
    let elected = timeout(
        Duration::from_secs(2),
        futures_util::future::select_all(elected),
    );
    assert!(
        elected.await.is_err(),
        "by one that has forgotten what it acknowledged"
    );
    ensemble.open(first, false).await;
    let (_, mut leader) = ensemble.leader(&[first, behind]).await;
    assert!(leader.tally.applied().starts_with(&acknowledged));
    leader.write(10).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_entry_goes_through_between_small_ones() {
    let ensemble = Ensemble::three().await;
    let (_, mut leader) = ensemble.any_leader().await;
    leader.write(10).await;
    let large = |counter: u32| {
        Entry::Transactions(Batch {
            epoch: 1,
            first_counter: counter,
            transactions: vec![Transaction {
                time: Timestamp(0),
                origin: None,
                session: SessionId::NONE,
                changes: vec![Change::SetData {
                    path: ZnodePath::parse("/large").expect("a path"),
                    data: Bytes::from(vec![7; 24 << 20]),
                    version: 1,
                }],
                outcome: None,
            }],
        })
    };
    for counter in 11..14 {
        let mut large = large(counter);
        if let Entry::Transactions(batch) = &mut large {
            batch.epoch = leader.epoch;
        }
        let proposal = leader
            .consensus
            .propose(leader.term, large)
            .await
            .expect("it leads");
        assert_eq!(within("a large entry", proposal).await, Resolution::Applied);
    }
    let small = leader
        .consensus
        .propose(leader.term, entry(leader.epoch, 14))
        .await
        .expect("it leads");
    assert_eq!(within("a small entry", small).await, Resolution::Applied);
    ensemble.agree(&leader).await;
    ensemble.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_talk_to_each_other_over_streams() {
    let ensemble = Ensemble::three().await;
    let (first, leader) = ensemble.any_leader().await;
    let other = ensemble.others(first)[0];
    ensemble.agree(&leader).await;
    let here = ensemble.consensus(other);
    let connect = async || here.connect(ServerId(first)).await;
    match connect().await {
        Err(ConnectError::Refused { reason, .. }) => assert!(reason.contains("takes no streams")),
        _ => panic!("nobody takes streams there"),
    }
    assert!(matches!(
        here.connect(ServerId(77)).await,
        Err(ConnectError::UnknownServer(_))
    ));
    let mut accepted = leader.consensus.accept_streams();
    let (mut sender, mut receiver) = connect()
        .await
        .map_err(|error| error.to_string())
        .expect("connected")
        .split();
    let (from, stream) = within("a stream", accepted.recv()).await.expect("open");
    assert_eq!(from, ServerId(other));
    let (mut answer, mut heard) = stream.split();
    let large = Bytes::from(vec![3; 33 << 20]);
    let sent = large.clone();
    let sending = tokio::spawn(async move {
        for frame in [Bytes::new(), Bytes::from_static(b"hello"), sent] {
            sender.send(frame).await.expect("sent");
        }
        sender
    });
    let mut next = async || {
        within("a frame", heard.next())
            .await
            .expect("open")
            .expect("whole")
    };
    assert_eq!(next().await, b""[..]);
    assert_eq!(next().await, b"hello"[..]);
    assert!(next().await == large);
    answer
        .send(Bytes::from_static(b"good"))
        .await
        .expect("sent");
    let answered = within("an answer", receiver.next()).await;
    assert_eq!(answered.expect("open").expect("whole"), b"good"[..]);
    drop((sending.await.expect("sent"), receiver));
    assert!(within("the end", heard.next()).await.is_none());
    ensemble.stop().await;
}

/// Prints how long it takes from a leader's death to its successor's first applied proposal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_at_once_over_tcp() {
    let rounds = std::env::var("QUORATE_FAILOVERS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(3);
    let dir = tempfile::tempdir().expect("a directory");
    let mut listeners = BTreeMap::new();
    for server in 1..=3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        listeners.insert(server, listener);
    }
    let address = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
    let members: Vec<FirstMember> = listeners
        .iter()
        .map(|(server, listener)| FirstMember {
            server: ServerId(*server),
            address: address(listener),
            votes: true,
        })
        .collect();
    let open = async |server: u64, listener: TcpListener| {
        let mut config = Config::new(dir.path().join(server.to_string()), ServerId(server));
        config.members = members.clone();
        let tally = Arc::new(Tally::default());
        let transport: Arc<dyn Transport> = Arc::new(Tcp::new(Some(listener)));
        let opened = Consensus::open_with_peers(config, tally.clone(), transport).await;
        (opened.expect("it opens"), tally)
    };
    let mut nodes = BTreeMap::new();
    for (server, listener) in listeners {
        nodes.insert(server, open(server, listener).await);
    }
    let lead = async |nodes: &BTreeMap<u64, (Consensus, Arc<Tally>)>| {
        let leading = nodes.iter().map(|(server, (consensus, tally))| {
            let mut leadership = consensus.leadership();
            Box::pin(async move {
                leadership
                    .wait_for(|now| now.leading)
                    .await
                    .expect("watched");
                (
                    *server,
                    Server::lead(consensus.clone(), tally.clone()).await,
                )
            })
        });
        let (led, ..) = within("a leader", futures_util::future::select_all(leading)).await;
        led
    };
    let mut pauses = Vec::new();
    let mut acknowledged = Vec::new();
    for _ in 0..rounds {
        let (server, mut leader) = lead(&nodes).await;
        leader.write(50).await;
        assert_eq!(leader.tally.applied()[..acknowledged.len()], acknowledged);
        acknowledged = leader.tally.applied();
        let index = leader.consensus.status().applied_index.expect("applied");
        for (consensus, _) in nodes.values() {
            within("a follower", consensus.applied(index))
                .await
                .expect("running");
        }
        // So that the followers differ, as they do under load.
        let more = leader.propose().await;
        drop((leader, more));
        let died = Instant::now();
        drop(nodes.remove(&server));
        let (_, mut next) = lead(&nodes).await;
        next.write(1).await;
        pauses.push(died.elapsed());
        let at = members[server as usize - 1].address.clone();
        let again = async {
            loop {
                match TcpListener::bind(&at).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let listener = within("the port is free", again).await;
        nodes.insert(server, open(server, listener).await);
        drop(next);
    }
    pauses.sort();
    println!(
        "{rounds} leaders died: successor's first proposal applied after {:?} in the median, at most {:?}",
        pauses[rounds / 2],
        pauses[rounds - 1]
    );
    for (consensus, _) in nodes.values() {
        consensus.shutdown().await;
    }
}
