//! Who is to have which partition: as even as can be, and moving as few as can be.

use std::collections::VecDeque;

/// Who has each partition of a group, and who is to have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// The members' names, in byte order.
    pub(crate) members: Vec<String>,
    /// The partitions, in order.
    pub(crate) rows: Vec<Row>,
}

/// One partition. Members are known by their places: names are long, and looked at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Who has it: until it gives it up, or its session ends.
    pub(crate) owner: Option<usize>,
    /// Who is to have it.
    pub(crate) target: Option<usize>,
}

impl Table {
    /// So many partitions, and nobody who has them.
    pub(crate) fn of(partitions: usize) -> Table {
        Table {
            members: Vec::new(),
            rows: vec![Row::default(); partitions],
        }
    }

    /// Settles the partitions for these members, in byte order: each partition has a target, no two members' shares differ by more
    /// than one, and a partition without an owner goes to its target. No more targets change than that needs.
    pub(crate) fn settle(&mut self, members: Vec<String>) {
        let mut new = members.iter().enumerate().peekable();
        let moved = |old: &String| {
            while new.next_if(|(_, name)| *name < old).is_some() {}
            new.next_if(|(_, name)| *name == old)
                .map(|(place, _)| place)
        };
        let moved: Vec<Option<usize>> = self.members.iter().map(moved).collect();
        for row in &mut self.rows {
            for place in [&mut row.owner, &mut row.target] {
                *place = place.and_then(|old| moved.get(old).copied().flatten());
            }
        }
        self.members = members;
        if !self.members.is_empty() {
            even_out(&mut self.rows, self.members.len());
        }
    }
}

fn even_out(rows: &mut [Row], members: usize) {
    let mut shares = vec![0usize; members];
    for target in rows.iter().filter_map(|row| row.target) {
        shares[target] += 1;
    }
    for row in rows.iter_mut().filter(|row| row.target.is_none()) {
        let least = least(&shares);
        // Back to whoever has it still, if that is as good.
        let owner = row.owner.filter(|&owner| shares[owner] == shares[least]);
        let best = owner.unwrap_or(least);
        shares[best] += 1;
        row.target = Some(best);
    }
    // Of each member, the partitions that it is to have: those that it has not, and those that it has.
    let mut coming = vec![Vec::new(); members];
    let mut held = vec![VecDeque::new(); members];
    for (index, row) in rows.iter().enumerate() {
        match row.target {
            Some(target) if row.owner == Some(target) => held[target].push_back(index),
            Some(target) => coming[target].push(index),
            None => {}
        }
    }
    loop {
        let (least, most) = (least(&shares), most(&shares));
        if shares[most] - shares[least] <= 1 {
            break;
        }
        // One that the receiver has still, or that nobody would have to give up, before others.
        let back = coming[most]
            .iter()
            .position(|&index: &usize| rows[index].owner == Some(least));
        let moved = match back {
            Some(place) => Some(coming[most].remove(place)),
            None if coming[most].is_empty() => held[most].pop_front(),
            None => Some(coming[most].remove(0)),
        };
        // It is not among the receiver's: that never comes to have the most.
        let Some(moved) = moved else { break };
        rows[moved].target = Some(least);
        shares[most] -= 1;
        shares[least] += 1;
    }
    for row in rows {
        row.owner = row.owner.or(row.target);
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

    fn shares(table: &Table) -> Vec<usize> {
        let share = |member| {
            let is_its = |row: &&Row| row.target == Some(member);
            table.rows.iter().filter(is_its).count()
        };
        (0..table.members.len()).map(share).collect()
    }

    /// Names of owner and target.
    fn named(table: &Table) -> Vec<[Option<&str>; 2]> {
        let name = |place: Option<usize>| place.map(|place| table.members[place].as_str());
        let row = |row: &Row| [name(row.owner), name(row.target)];
        table.rows.iter().map(row).collect()
    }

    #[test]
    fn few_partitions_move() {
        let mut table = Table::of(12);
        table.settle(names(&["b", "c", "d"]));
        assert_eq!(shares(&table), [4, 4, 4]);

        // One more member: its share moves, and nothing else.
        let before = table.clone();
        table.settle(names(&["a", "b", "c", "d"]));
        assert_eq!(shares(&table), [3, 3, 3, 3]);
        let (old, new) = (named(&before), named(&table));
        let moved = old.iter().zip(&new).filter(|(a, b)| a[1] != b[1]);
        assert_eq!(moved.count(), 3);
        // Nobody has what another has not given up.
        assert!(old.iter().zip(&new).all(|(a, b)| a[0] == b[0]));

        // It goes again before they have: they keep what they have.
        table.settle(names(&["b", "c", "d"]));
        assert_eq!(table, before);

        // Another goes: its partitions are spread, and no other moves.
        table.settle(names(&["b", "d"]));
        assert_eq!(shares(&table), [6, 6]);
        let (old, new) = (named(&before), named(&table));
        let mut kept = old.iter().zip(&new).filter(|(a, _)| a[0] != Some("c"));
        assert!(kept.all(|(a, b)| a == b));
    }

    #[test]
    fn more_members_than_partitions() {
        let mut table = Table::of(2);
        table.settle(names(&["a", "b", "c"]));
        assert_eq!(shares(&table), [1, 1, 0]);
        table.settle(Vec::new());
        assert_eq!(table, Table::of(2));
    }
}
