//! `quorate cluster`: the servers of an ensemble, and changes of them.

mod init;
mod local;

use clap::{Args, Subcommand};
use quorate_client::admin::{Cluster as Shown, Member};
use serde_json::to_value;

use super::Global;
use super::output::Output;
use super::session::unless_interrupted;

/// Show and change the servers of an ensemble
///
/// Changes may be asked of any server that is a member: --http names its HTTP port. Whoever leads makes them.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Cluster {
    Init(init::Init),
    Local(local::Local),
    Status(Status),
    Add(Add),
    Promote(Promote),
    Remove(Remove),
    Replace(Replace),
    TransferLeader(TransferLeader),
}

const EXAMPLES: &str = "\
Examples:
  quorate cluster local                            three servers on this machine, to try things out
  quorate cluster init --servers a:2888,b:2888,c:2888
                                                   the files of a new ensemble
A server is replaced without a pause for the clients of the others:
  quorate serve --id 4 --peer 4=d:2888 --join      on the new machine
  quorate cluster replace 2 4 d:2888               it catches up, and votes in the old one's place: stop that";

/// Show the members, who leads, and how far each has come
#[derive(Args, Debug)]
pub(super) struct Status {}

/// Add a server that was started with --join; it follows and does not vote yet
#[derive(Args, Debug)]
pub(super) struct Add {
    /// The new server's id
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Where the others reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,
}

/// Let a server vote that follows and has caught up
#[derive(Args, Debug)]
pub(super) struct Promote {
    /// Which
    id: u64,
}

/// Remove a server; refused if the others would have no quorum
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// Which; the one that leads hands the lead over first
    id: u64,
}

/// Put a server that was started with --join into the place of another
#[derive(Args, Debug)]
pub(super) struct Replace {
    /// Whose place
    old: u64,
    /// The new server's id
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    new: u64,
    /// Where the others reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,
}

/// Let another voter lead, as before stopping the machine that does
#[derive(Args, Debug)]
pub(super) struct TransferLeader {
    /// Which
    id: u64,
}

impl Cluster {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = || global.admin();
        let cluster = match self {
            Cluster::Init(init) => return init.run(output),
            Cluster::Local(local) => return local.run(output).await,
            Cluster::Status(_) => admin()?.cluster().await?,
            Cluster::Add(Add { id, address }) => {
                unless_interrupted(admin()?.add_member(id, &address)).await?
            }
            Cluster::Promote(Promote { id }) => {
                unless_interrupted(admin()?.promote_member(id)).await?
            }
            Cluster::Remove(Remove { id }) => {
                unless_interrupted(admin()?.remove_member(id)).await?
            }
            Cluster::Replace(Replace { old, new, address }) => {
                unless_interrupted(admin()?.replace_member(old, new, &address)).await?
            }
            Cluster::TransferLeader(TransferLeader { id }) => {
                unless_interrupted(admin()?.transfer_leader(id)).await?
            }
        };
        output.print(text(&cluster), to_value(&cluster)?)?;
        Ok(())
    }
}

fn text(cluster: &Shown) -> String {
    let leader = match cluster.leader {
        Some(leader) => format!("server {leader} leads"),
        None => "it hears of no leader: its writes wait".to_owned(),
    };
    let changing = if cluster.changing {
        "; the members are being changed"
    } else {
        ""
    };
    let mut lines = vec![format!(
        "server {} ({}); {leader} in term {}{changing}",
        cluster.server, cluster.mode, cluster.term
    )];
    if cluster.leader.is_none() {
        let seconds = cluster.quorum_age_ms / 1000;
        lines.push(format!(
            "  it has heard of no quorum for {seconds} s; other servers may have one"
        ));
    }
    lines.push(
        match (
            &cluster.waiting,
            &cluster.state_digest,
            &cluster.state_zxid,
            cluster.ensemble_version,
        ) {
            (_, Some(digest), Some(zxid), Some(version)) => format!(
                "  its state is {digest} at zxid {zxid}; the ensemble is at version {version}"
            ),
            (Some(reason), ..) => format!("  it does not serve yet: {reason}"),
            _ => "  its state is being read from a snapshot".into(),
        },
    );
    lines.extend(cluster.members.iter().map(|member| line(member, cluster)));
    lines.join("\n")
}

/// A follower is heard of several times a second.
const SILENT_MS: u64 = 1000;

fn line(member: &Member, cluster: &Shown) -> String {
    let role = match (Some(member.server) == cluster.leader, member.votes) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "observer",
    };
    let is_here = member.server == cluster.server;
    let silent_ms = member.heard_ms.filter(|_| !is_here);
    let behind = match (member.matched_index, cluster.last_index) {
        // Its log may be whole, and it is gone all the same.
        (Some(_), Some(_)) if silent_ms.is_some_and(|ms| ms >= SILENT_MS) => {
            let seconds = silent_ms.unwrap_or_default() / 1000;
            format!("  not heard of for {seconds} s")
        }
        (Some(matched), Some(last)) => match last.saturating_sub(matched) {
            0 => "  up to date".to_owned(),
            entries => format!("  {entries} entries behind"),
        },
        _ => String::new(),
    };
    format!(
        "  {:<4} {role:<9} {}{behind}",
        member.server, member.address
    )
}
