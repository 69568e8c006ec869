//! Watches: each fires once, by the first change behind the read that set it; nothing later is told before (rule W2), no
//! event is missed, also over a move to another server, and none is told of what did not happen.

use quorate_model::id::Zxid;
use quorate_wire::EventType;

use crate::check::znodes::Znodes;
use crate::check::{Kind, Violation};
use crate::client::watches::{Awaits, Event, Leg, Watch};

/// Watches that were told too little, too late, or too much.
pub fn violations(watches: &[(u64, Watch)], znodes: &Znodes) -> Vec<Violation> {
    let mut found = Vec::new();
    for (client, watch) in watches {
        if let Some(why) = broken(watch, znodes) {
            let what = format!("client {client}: {why}: {watch:?}");
            found.push(Violation::new(Kind::Watch, what));
        }
    }
    found
}

/// What is wrong with a watch.
fn broken(watch: &Watch, znodes: &Znodes) -> Option<String> {
    let changes = match watch.awaits {
        Awaits::Data | Awaits::Existence => znodes.changes(&watch.path),
        Awaits::Children => znodes.changes_of_children(&watch.path),
    };
    let first_behind = |zxid: Zxid| changes.iter().find(|(at, _)| *at > zxid);
    for Leg { set, quiet } in &watch.legs {
        if let Some((at, event)) = first_behind(*set).filter(|(at, _)| at <= quiet) {
            return Some(format!("{event:?} at {at} was not told before {quiet}"));
        }
    }
    for pair in watch.legs.windows(2) {
        let (before, after) = (pair[0].set, pair[1].set);
        let missed = match watch.awaits {
            // What came and went meanwhile is not told: ZooKeeper's setWatches looks at what is there.
            Awaits::Existence => znodes
                .written(&watch.path, after)
                .map(|at| (at, EventType::NodeCreated)),
            Awaits::Data | Awaits::Children => {
                first_behind(before).filter(|(at, _)| *at <= after).copied()
            }
        };
        if let Some((at, event)) = missed {
            return Some(format!(
                "{event:?} at {at} was not told when it was set again"
            ));
        }
    }
    let Event {
        event,
        zxid,
        meanwhile,
    } = watch.event?;
    let set = watch.legs.last()?.set;
    let first = first_behind(set).filter(|(at, _)| *at <= zxid);
    let there = znodes.written(&watch.path, zxid).is_some();
    let right = match (first, meanwhile, watch.awaits) {
        (None, ..) => false,
        (Some(first), false, _) => *first == (zxid, event),
        (Some(_), true, Awaits::Children) => event == EventType::NodeChildrenChanged,
        (Some(_), true, Awaits::Existence) => there && event == EventType::NodeCreated,
        (Some(_), true, Awaits::Data) if there => event == EventType::NodeDataChanged,
        (Some(_), true, Awaits::Data) => event == EventType::NodeDeleted,
    };
    (!right).then(|| format!("it was told {event:?} at {zxid}, and the first change is {first:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventType::{NodeCreated, NodeDataChanged, NodeDeleted};

    /// Created at 2, set at 4 and 6, deleted at 8, created at 10.
    fn znodes() -> Znodes {
        Znodes::of(
            "/a",
            &[
                (2, NodeCreated),
                (4, NodeDataChanged),
                (6, NodeDataChanged),
                (8, NodeDeleted),
                (10, NodeCreated),
            ],
        )
    }

    fn is_broken(
        awaits: Awaits,
        legs: &[(u64, u64)],
        event: Option<(EventType, u64, bool)>,
    ) -> bool {
        let legs = legs.iter().map(|(set, quiet)| Leg {
            set: Zxid(*set),
            quiet: Zxid(*quiet),
        });
        let event = event.map(|(event, zxid, meanwhile)| Event {
            event,
            zxid: Zxid(zxid),
            meanwhile,
        });
        let watch = Watch {
            path: "/a".into(),
            awaits,
            legs: legs.collect(),
            event,
        };
        broken(&watch, &znodes()).is_some()
    }

    #[test]
    fn w2_a_change_is_told_before_anything_later() {
        let told = Some((NodeDataChanged, 4, false));
        assert!(!is_broken(Awaits::Data, &[(3, 3)], told));
        assert!(is_broken(Awaits::Data, &[(3, 4)], told));
        assert!(is_broken(Awaits::Data, &[(3, 5)], None));
        assert!(
            !is_broken(Awaits::Data, &[(3, 3)], None),
            "its session ended"
        );
    }

    #[test]
    fn an_event_tells_the_first_change() {
        for wrong in [
            (NodeDataChanged, 6, false),
            (NodeDeleted, 4, false),
            (NodeDataChanged, 3, false),
        ] {
            assert!(is_broken(Awaits::Data, &[(3, 3)], Some(wrong)), "{wrong:?}");
        }
        assert!(is_broken(
            Awaits::Data,
            &[(11, 11)],
            Some((NodeDataChanged, 12, true))
        ));
    }

    #[test]
    fn what_happened_during_a_move_is_told_when_the_watch_is_set_again() {
        assert!(!is_broken(
            Awaits::Data,
            &[(3, 3)],
            Some((NodeDataChanged, 7, true))
        ));
        assert!(!is_broken(
            Awaits::Data,
            &[(3, 3)],
            Some((NodeDeleted, 9, true))
        ));
        assert!(is_broken(
            Awaits::Data,
            &[(3, 3)],
            Some((NodeDeleted, 7, true))
        ));
        assert!(is_broken(Awaits::Data, &[(3, 3), (5, 5)], None));
        assert!(!is_broken(Awaits::Data, &[(4, 4), (5, 5)], None));
        assert!(
            !is_broken(Awaits::Existence, &[(1, 1), (9, 9)], None),
            "it came and went"
        );
        assert!(is_broken(Awaits::Existence, &[(1, 1), (7, 7)], None));
        assert!(!is_broken(
            Awaits::Existence,
            &[(8, 9)],
            Some((NodeCreated, 12, true))
        ));
    }
}
