//! Members: what was acknowledged of changes has taken effect, and in the end they are who was asked for.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::id::ServerId;
use quorate_model::path::ZnodePath;
use quorate_model::write_set::Change;
use quorate_tree::configuration_version;

use crate::check::{Kind, Violation};
use crate::ledger::Ledger;
use crate::members::{Made, Move};

/// Who votes, and who does not, as `/zookeeper/config` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The participants.
    pub voters: BTreeSet<ServerId>,
    /// The observers.
    pub learners: BTreeSet<ServerId>,
}

impl Configuration {
    /// Reads lines such as `server.4=host:2888:2888:observer`; none if there is another one among them.
    pub fn parse(data: &[u8]) -> Option<Configuration> {
        let mut configuration = Configuration::default();
        let text = std::str::from_utf8(data).ok()?;
        for line in text.lines().filter(|line| !line.starts_with("version=")) {
            let (server, rest) = line.strip_prefix("server.")?.split_once('=')?;
            let server = ServerId(server.parse().ok()?);
            let peers = rest.split(';').next()?;
            match peers.rsplit_once(':')?.1 {
                "participant" => configuration.voters.insert(server),
                "observer" => configuration.learners.insert(server),
                _ => return None,
            };
        }
        Some(configuration)
    }
}

/// What `/zookeeper/config` was, by its version.
fn configurations(ledger: &Ledger) -> BTreeMap<u64, Configuration> {
    let transactions = ledger.transactions().into_values();
    let changes = transactions.flat_map(|transaction| transaction.changes);
    changes
        .filter_map(|change| match change {
            Change::SetData { path, data, .. } if path == ZnodePath::configuration() => {
                Some((configuration_version(&data)?, Configuration::parse(&data)?))
            }
            _ => None,
        })
        .collect()
}

/// Changes that were acknowledged and are not in the configuration that they were to bring.
pub fn violations(made: &[Made], ledger: &Ledger) -> Vec<Violation> {
    broken(made, &configurations(ledger))
}

fn broken(made: &[Made], configurations: &BTreeMap<u64, Configuration>) -> Vec<Violation> {
    let mut found = Vec::new();
    for made in made
        .iter()
        .filter(|made| made.certain && made.asked != Move::Lead)
    {
        // One that was overtaken by the next before it was said is in that one.
        let Some((_, now)) = configurations.range(made.changed.index..).next() else {
            let what = format!("{made:?} was acknowledged and never published");
            found.push(Violation::new(Kind::Members, what));
            continue;
        };
        let votes = now.voters.contains(&made.server);
        let follows = now.learners.contains(&made.server);
        let as_asked = match made.asked {
            Move::Add => votes || follows,
            Move::Promote => votes,
            Move::Demote => follows,
            Move::Remove => !votes && !follows,
            Move::Lead => true,
        };
        if !as_asked {
            let what = format!("{made:?} was acknowledged, and the members are {now:?}");
            found.push(Violation::new(Kind::Members, what));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::members::Changed;

    #[test]
    fn w6_a_change_that_has_no_effect_is_found() {
        let text = b"server.1=a:1:1:participant;a:2\nserver.2=b:1:1:observer\nversion=1a";
        let now = Configuration::parse(text).unwrap();
        assert_eq!(now.voters, BTreeSet::from([ServerId(1)]));
        assert_eq!(now.learners, BTreeSet::from([ServerId(2)]));
        assert_eq!(Configuration::parse(b"server.1=a:1:1:leader"), None);
        let configurations = BTreeMap::from([(0x1a, now)]);
        let made = |asked, server, index| Made {
            asked,
            server: ServerId(server),
            changed: Changed {
                index,
                ..Changed::default()
            },
            certain: true,
        };
        let count = |made| broken(&[made], &configurations).len();
        assert_eq!(count(made(Move::Demote, 2, 0x1a)), 0);
        assert_eq!(count(made(Move::Demote, 2, 0x19)), 0);
        assert_eq!(count(made(Move::Demote, 2, 0x1b)), 1);
        assert_eq!(count(made(Move::Promote, 2, 0x1a)), 1);
        assert_eq!(count(made(Move::Remove, 2, 0x1a)), 1);
        assert_eq!(count(made(Move::Remove, 3, 0x1a)), 0);
        assert_eq!(count(made(Move::Add, 3, 0x1a)), 1);
    }
}
