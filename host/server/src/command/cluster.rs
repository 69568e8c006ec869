//! `quorate cluster`: the servers of an ensemble, and changes of them.

use clap::{Args, Subcommand};
use quorate_client::admin::{Cluster as Shown, Member};
use serde_json::to_value;

use super::Global;
use super::output::Output;
use super::session::unless_interrupted;

/// Show and change the servers of an ensemble
///
/// Changes are asked of the server that leads: --http names its HTTP port, and `status` says who it is.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Cluster {
    Status(Status),
    Add(Add),
    Promote(Promote),
    Remove(Remove),
    TransferLeader(TransferLeader),
}

const EXAMPLES: &str = "\
A server is replaced without a pause for its clients:
  quorate serve --id 4 --peer 4=d:2888 --join      on the new machine
  quorate cluster add 4 d:2888                     it follows, and catches up
  quorate cluster promote 4                        it votes
  quorate cluster remove 2                         the old one does not any more: stop it";

/// Show the members, who leads, and how far each has come
#[derive(Args, Debug)]
pub(super) struct Status {}

/// Add a server that was started with --join; it follows and does not vote yet
#[derive(Args, Debug)]
pub(super) struct Add {
    /// The new server's id
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
    /// Which; not the leader: transfer the lead first
    id: u64,
}

/// Let another voter lead, as before stopping the machine that does
#[derive(Args, Debug)]
pub(super) struct TransferLeader {
    /// Which
    id: u64,
}

impl Cluster {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = global.admin()?;
        let cluster = match &self {
            Cluster::Status(_) => admin.cluster().await?,
            Cluster::Add(Add { id, address }) => {
                unless_interrupted(admin.add_member(*id, address)).await?
            }
            Cluster::Promote(Promote { id }) => {
                unless_interrupted(admin.promote_member(*id)).await?
            }
            Cluster::Remove(Remove { id }) => unless_interrupted(admin.remove_member(*id)).await?,
            Cluster::TransferLeader(TransferLeader { id }) => {
                unless_interrupted(admin.transfer_leader(*id)).await?
            }
        };
        output.print(text(&cluster), to_value(&cluster)?)?;
        Ok(())
    }
}

fn text(cluster: &Shown) -> String {
    let leader = match cluster.leader {
        Some(leader) => format!("server {leader} leads"),
        None => "nobody leads: writes wait".into(),
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
    lines.push(format!(
        "  its state is {} at zxid {}; the ensemble is at version {}",
        cluster.state_digest, cluster.state_zxid, cluster.ensemble_version
    ));
    lines.extend(cluster.members.iter().map(|member| line(member, cluster)));
    lines.join("\n")
}

fn line(member: &Member, cluster: &Shown) -> String {
    let role = match (Some(member.server) == cluster.leader, member.votes) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "observer",
    };
    let behind = match (member.matched_index, cluster.last_index) {
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
