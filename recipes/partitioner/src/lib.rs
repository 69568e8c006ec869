//! Spreads partitions over the members of a group.
//!
//! A group is its members' znodes and a table of who has, and who is to have, each partition. A session that
//! ends changes the members by itself; the next run that looks at the group brings the table up to that.

use quorate_recipe::prelude::*;

mod balance;

use balance::Partition;

recipe!(
    r#"
    package quorate:partitioner@0.1.0;

    /// Spreads numbered partitions evenly over the members of a group. Each partition has one owner as long
    /// as there are members, and only as many move as it takes when one comes or goes.
    ///
    /// A partition moves in two steps: its owner is asked to give it up, and keeps it until it does by
    /// `release`, or until its session ends. So no two members ever work on one. A member is there as long
    /// as its session lives; one whose connection is lost does not learn at once that it has ended.
    interface partitioner {
        /// What a member has.
        record share {
            /// Another one after each change of the group, and never an earlier one again.
            version: u64,
            /// The partitions that it owns, those to be given up included.
            owned: list<u32>,
            /// Those of them that it is to give up: stop working on them, then call `release`.
            to-release: list<u32>,
        }

        /// Joins a group of so many partitions, 1000 at most. Refused if the group has another number of
        /// them, or another session is the member of that name.
        join: func(name: string, member: string, partitions: u32) -> share;

        /// What a member of this session has now. Refused if it is not in the group.
        show: func(name: string, member: string) -> share;

        /// Waits until the version is another than `known`; gives what the member has then.
        wait-for-change: func(name: string, member: string, known: u64) -> share;

        /// Gives up partitions that the member was asked to give up: their next owner has them. Refused if
        /// it does not own one of them; one that it may keep meanwhile, it keeps.
        release: func(name: string, member: string, partitions: list<u32>) -> share;

        /// Leaves; what it owned goes to others at once.
        leave: func(name: string, member: string);

        /// Who owns each partition, in their order; none of a group that nobody is in.
        owners: func(name: string) -> list<string>;
    }

    world recipe {
        export partitioner;
    }
"#
);

/// Partitions of a group: the whole table is written at each change.
const MAX_PARTITIONS: u32 = 1000;

/// Members of a group, each a look at each change.
const MAX_MEMBERS: u32 = 1000;

fn join(name: String, member: String, partitions: u32) -> Share {
    let group = Group::of(&name);
    require_name(&member);
    if partitions == 0 || partitions > MAX_PARTITIONS {
        refuse!("a group has 1 to {MAX_PARTITIONS} partitions, not {partitions}");
    }
    let path = path!(group.members, member);
    let members = tree::exists(&group.members).map_or(0, |stat| stat.children);
    match tree::exists(&path) {
        Some(stat) if stat.is_mine() => {}
        Some(_) => refuse!("another session is the member {member:?} of {name:?}"),
        None if members >= MAX_MEMBERS => refuse!("{name:?} has {MAX_MEMBERS} members, the most"),
        None => tree::create(&path, "", mine()),
    }
    if members == 0 {
        // A new group, or one whose sessions have all ended.
        tree::put(
            &group.table,
            write(&vec![Partition::default(); partitions as usize]),
        );
    }
    let table = group.settle();
    if table.len() != partitions as usize {
        refuse!("{name:?} has {} partitions, not {partitions}", table.len());
    }
    group.share_of(&member, &table)
}

fn show(name: String, member: String) -> Share {
    let group = Group::of(&name);
    group.require_mine(&member);
    group.share_of(&member, &group.settle())
}

fn wait_for_change(name: String, member: String, known: u64) -> Share {
    let group = Group::of(&name);
    let share = show(name, member);
    if share.version == known {
        watch::children(&group.members);
        watch::node(&group.table);
        call::park("");
    }
    share
}

fn release(name: String, member: String, partitions: Vec<u32>) -> Share {
    let group = Group::of(&name);
    group.require_mine(&member);
    let mut table = group.settle();
    for partition in partitions {
        match table.get_mut(partition as usize) {
            Some(row) if row.owner.as_deref() == Some(&member) => row.owner.clone_from(&row.target),
            _ => refuse!("{member:?} does not own the partition {partition} of {name:?}"),
        }
    }
    group.put(&table);
    group.share_of(&member, &table)
}

fn leave(name: String, member: String) {
    let group = Group::of(&name);
    group.require_mine(&member);
    tree::delete(&path!(group.members, member));
    group.settle();
}

fn owners(name: String) -> Vec<String> {
    let table = Group::of(&name).settle();
    table.into_iter().filter_map(|row| row.owner).collect()
}

/// The paths of a group's parts.
struct Group {
    members: String,
    table: String,
}

impl Group {
    fn of(name: &str) -> Group {
        require_name(name);
        Group {
            members: path!(name, "members"),
            table: path!(name, "table"),
        }
    }

    fn require_mine(&self, member: &str) {
        require_name(member);
        let path = path!(self.members, member);
        if !tree::exists(&path).is_some_and(|stat| stat.is_mine()) {
            refuse!("this session is not the member {member:?}");
        }
    }

    /// The table, brought up to the members that there are.
    fn settle(&self) -> Vec<Partition> {
        let members = tree::children(&self.members, &Range::all());
        let Some(node) = tree::get(&self.table) else {
            return Vec::new();
        };
        let mut table = read(node.text());
        if members.is_empty() {
            // It leaves nothing behind.
            tree::delete(&self.table);
            return Vec::new();
        }
        balance::settle(&mut table, &members);
        self.put(&table);
        table
    }

    /// Writes the table if it has changed, so that those who wait are woken once.
    fn put(&self, table: &[Partition]) {
        let text = write(table);
        if tree::get(&self.table).is_none_or(|node| node.data != text.as_bytes()) {
            tree::put(&self.table, text);
        }
    }

    fn share_of(&self, member: &str, table: &[Partition]) -> Share {
        let is_its = |place: &Option<String>| place.as_deref() == Some(member);
        let owned = (0u32..).zip(table).filter(|(_, row)| is_its(&row.owner));
        let leaving = owned.clone().filter(|(_, row)| !is_its(&row.target));
        Share {
            version: tree::exists(&self.table).map_or(0, |stat| stat.modified),
            to_release: leaving.map(|(number, _)| number).collect(),
            owned: owned.map(|(number, _)| number).collect(),
        }
    }
}

/// A line for each partition: owner, slash, target. A name has neither slash nor line break.
fn write(table: &[Partition]) -> String {
    let name = |place: &Option<String>| place.clone().unwrap_or_default();
    let row = |row: &Partition| format!("{}/{}", name(&row.owner), name(&row.target));
    table.iter().map(row).collect::<Vec<_>>().join("\n")
}

fn read(text: &str) -> Vec<Partition> {
    let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let row = |line: &str| {
        let (owner, target) = line.split_once('/').unwrap_or((line, ""));
        Partition {
            owner: name(owner),
            target: name(target),
        }
    };
    text.split('\n').map(row).collect()
}
