//! Who is to have which partition: as even as can be, and moving as few as can be.

/// One partition. Names are those of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Who has it: until it gives it up, or its session ends.
    pub(crate) owner: Option<String>,
    /// Who is to have it.
    pub(crate) target: Option<String>,
}

/// Settles the partitions for these members: each partition has a target, no two members' shares differ by
/// more than one, and a partition without an owner goes to its target. No more targets change than that needs.
pub(crate) fn settle(partitions: &mut [Partition], members: &[String]) {
    for partition in partitions.iter_mut() {
        for place in [&mut partition.owner, &mut partition.target] {
            if place
                .as_ref()
                .is_some_and(|member| !members.contains(member))
            {
                *place = None;
            }
        }
    }
    if members.is_empty() {
        return;
    }
    let place = |member: &String| members.iter().position(|other| other == member);
    let mut targets: Vec<Option<usize>> = partitions
        .iter()
        .map(|partition| partition.target.as_ref().and_then(place))
        .collect();
    let mut shares = vec![0usize; members.len()];
    for &target in targets.iter().flatten() {
        shares[target] += 1;
    }
    for (partition, target) in partitions.iter().zip(&mut targets) {
        if target.is_none() {
            let least = least(&shares);
            // Back to whoever has it still, if that is as good.
            let owner = partition.owner.as_ref().and_then(place);
            let best = owner.filter(|&owner| shares[owner] == shares[least]);
            let best = best.unwrap_or(least);
            shares[best] += 1;
            *target = Some(best);
        }
    }
    loop {
        let (least, most) = (least(&shares), most(&shares));
        if shares[most] - shares[least] <= 1 {
            break;
        }
        // One that the receiver has still, or that nobody would have to give up, before others.
        let owner = |index: usize| partitions[index].owner.as_ref().and_then(place);
        let moved = (0..partitions.len())
            .filter(|&index| targets[index] == Some(most))
            .min_by_key(|&index| match owner(index) {
                Some(owner) if owner == least => 0,
                Some(owner) if owner != most => 1,
                None => 1,
                Some(_) => 2,
            });
        let Some(moved) = moved else { break };
        targets[moved] = Some(least);
        shares[most] -= 1;
        shares[least] += 1;
    }
    for (partition, target) in partitions.iter_mut().zip(targets) {
        partition.target = target.map(|target| members[target].clone());
        if partition.owner.is_none() {
            partition.owner.clone_from(&partition.target);
        }
    }
}

fn least(shares: &[usize]) -> usize {
    let by_share = |&index: &usize| shares[index];
    (0..shares.len()).min_by_key(by_share).unwrap_or(0)
}

fn most(shares: &[usize]) -> usize {
    let by_share = |&index: &usize| shares[index];
    (0..shares.len()).max_by_key(by_share).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn give_up_all(partitions: &mut [Partition]) {
        for partition in partitions {
            partition.owner.clone_from(&partition.target);
        }
    }

    fn shares(partitions: &[Partition], members: &[String]) -> Vec<usize> {
        let share = |member| {
            let is_its = |partition: &&Partition| partition.target.as_ref() == Some(member);
            partitions.iter().filter(is_its).count()
        };
        members.iter().map(share).collect()
    }

    #[test]
    fn few_partitions_move() {
        let mut partitions = vec![Partition::default(); 12];
        settle(&mut partitions, &names(&["a", "b", "c"]));
        assert_eq!(shares(&partitions, &names(&["a", "b", "c"])), [4, 4, 4]);

        // One more member: its share moves, and nothing else.
        let before = partitions.clone();
        let members = names(&["a", "b", "c", "d"]);
        settle(&mut partitions, &members);
        assert_eq!(shares(&partitions, &members), [3, 3, 3, 3]);
        let moved = before
            .iter()
            .zip(&partitions)
            .filter(|(a, b)| a.target != b.target);
        assert_eq!(moved.count(), 3);
        // Nobody has what another has not given up.
        assert!(
            before
                .iter()
                .zip(&partitions)
                .all(|(a, b)| a.owner == b.owner)
        );

        // It goes again before they have: they keep what they have.
        settle(&mut partitions, &names(&["a", "b", "c"]));
        assert_eq!(partitions, before);

        // Another goes: its partitions are spread, and no other moves.
        give_up_all(&mut partitions);
        settle(&mut partitions, &names(&["a", "c"]));
        assert_eq!(shares(&partitions, &names(&["a", "c"])), [6, 6]);
        let kept = before.iter().zip(&partitions);
        assert!(
            kept.filter(|(a, _)| a.owner.as_deref() != Some("b"))
                .all(|(a, b)| a == b)
        );
    }

    #[test]
    fn more_members_than_partitions() {
        let mut partitions = vec![Partition::default(); 2];
        let members = names(&["a", "b", "c"]);
        settle(&mut partitions, &members);
        assert_eq!(shares(&partitions, &members), [1, 1, 0]);
        settle(&mut partitions, &[]);
        assert_eq!(partitions, vec![Partition::default(); 2]);
    }
}
