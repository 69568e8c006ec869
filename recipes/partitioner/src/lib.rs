//! Spreads partitions over the members of a group.
//!
//! A group is its members' znodes and a table of who has, and who is to have, each partition. A session that
//! ends changes the members by itself; the next run that looks at the group brings the table up to that.

use quorate_recipe::prelude::*;

mod balance;

use balance::{Row, Table};

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

        /// Joins a group of so many partitions, 1,000 at most (`partitions`), of 1,000 members at most
        /// (`members`), under a name of 64 bytes at most (`member-name-bytes`). Refused if the group has
        /// another number of partitions, or another session is the member of that name.
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

/// A member's name: all are read and written at each change.
const MAX_MEMBER_NAME_BYTES: usize = 64;

fn join(name: String, member: String, partitions: u32) -> Share {
    let group = Group::of(&name);
    require_name(&member);
    bound::require_bytes("member-name-bytes", &member, MAX_MEMBER_NAME_BYTES);
    if partitions == 0 {
        refuse!("a group has at least one partition");
    }
    bound::require_most("partitions", partitions.into(), MAX_PARTITIONS.into());
    let path = path!(group.members, member);
    let members = tree::exists(&group.members).map_or(0, |stat| stat.children);
    match tree::exists(&path) {
        Some(stat) if stat.is_mine() => {}
        Some(_) => refuse!("another session is the member {member:?} of {name:?}"),
        None if members >= MAX_MEMBERS => {
            bound::reached("members", &format!("{name:?} has {MAX_MEMBERS}"))
        }
        None => tree::create(&path, "", mine()),
    }
    if members == 0 {
        // A new group, or one whose sessions have all ended.
        tree::put(&group.table, write(&Table::of(partitions as usize)));
    }
    let table = group.settle();
    let there = table.rows.len();
    if there != partitions as usize {
        refuse!("{name:?} has {there} partitions, not {partitions}");
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
    let owner = table.members.binary_search(&member).ok();
    for partition in partitions {
        match table.rows.get_mut(partition as usize) {
            Some(row) if row.owner == owner => row.owner = row.target,
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
    let Table { members, rows } = Group::of(&name).settle();
    let owner = |row: &Row| members.get(row.owner?).cloned();
    rows.iter().filter_map(owner).collect()
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
    fn settle(&self) -> Table {
        let members = tree::children(&self.members, &Range::all());
        let Some(node) = tree::get(&self.table) else {
            return Table::default();
        };
        let mut table = read(node.text());
        if members.is_empty() {
            // It leaves nothing behind.
            tree::delete(&self.table);
            return Table::default();
        }
        table.settle(members);
        self.put(&table);
        table
    }

    /// Writes the table if it has changed, so that those who wait are woken once.
    fn put(&self, table: &Table) {
        let text = write(table);
        if tree::get(&self.table).is_none_or(|node| node.data != text.as_bytes()) {
            tree::put(&self.table, text);
        }
    }

    fn share_of(&self, member: &str, table: &Table) -> Share {
        let member = table
            .members
            .binary_search_by(|it| it.as_str().cmp(member))
            .ok();
        let owned = (0u32..).zip(&table.rows);
        let owned = owned.filter(|(_, row)| row.owner.is_some() && row.owner == member);
        let leaving = owned.clone().filter(|(_, row)| row.target != member);
        Share {
            version: tree::exists(&self.table).map_or(0, |stat| stat.modified),
            to_release: leaving.map(|(number, _)| number).collect(),
            owned: owned.map(|(number, _)| number).collect(),
        }
    }
}

/// A line with the members' names, slashes between them: a name has neither slash nor line break. Then a line for each
/// partition: owner, slash, target, by their places in the first.
fn write(table: &Table) -> String {
    let place = |place: Option<usize>| place.map(|place| place.to_string()).unwrap_or_default();
    let mut text = table.members.join("/");
    for row in &table.rows {
        text.push('\n');
        text.push_str(&place(row.owner));
        text.push('/');
        text.push_str(&place(row.target));
    }
    text
}

fn read(text: &str) -> Table {
    let mut lines = text.split('\n');
    let members = lines.next().unwrap_or_default().split('/');
    let row = |line: &str| {
        let (owner, target) = line.split_once('/').unwrap_or((line, ""));
        Row {
            owner: owner.parse().ok(),
            target: target.parse().ok(),
        }
    };
    Table {
        members: members.map(str::to_owned).collect(),
        rows: lines.map(row).collect(),
    }
}
