//! Groups by name: who is there, and who comes and goes. A group is a container with a znode for each member.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:membership@0.1.0;

    /// Groups by name. A member is there as long as its session lives, or until it leaves. A group without
    /// members leaves nothing behind.
    interface membership {
        /// A member.
        record member {
            /// What it calls itself.
            name: string,
            /// What it said of itself.
            data: string,
            /// The session.
            session: u64,
        }

        /// A group as it is.
        record group {
            /// Another one after each change, and never an earlier one again but 0, that of an empty group.
            version: u64,
            /// By their names.
            members: list<member>,
        }

        /// Joins under a name, with data for others to read. A member that is there already changes its
        /// data. Refused if another session has that name.
        join: func(name: string, member: string, data: string);

        /// Leaves; says whether this session was there under that name.
        leave: func(name: string, member: string) -> bool;

        /// Who is there: at most ten thousand.
        members: func(name: string) -> group;

        /// Waits until the version is another than `known`; gives the group as it is then. Of several
        /// changes meanwhile, the last. Every call that waits is woken by every change.
        wait-for-change: func(name: string, known: u64) -> group;
    }

    world recipe {
        export membership;
    }
"#
);

fn join(name: String, member: String, data: String) {
    require_name(&name);
    require_name(&member);
    let path = path!(name, member);
    if let Some(stat) = tree::exists(&path) {
        if !stat.is_mine() {
            refuse!("another session is the member {member:?} of {name:?}");
        }
        // Anew, so that the version tells it.
        tree::delete(&path);
    }
    tree::create(&path, data, mine());
}

fn leave(name: String, member: String) -> bool {
    require_name(&name);
    require_name(&member);
    let path = path!(name, member);
    let is_mine = tree::exists(&path).is_some_and(|stat| stat.is_mine());
    if is_mine {
        tree::delete(&path);
    }
    is_mine
}

fn members(name: String) -> Group {
    require_name(&name);
    let member = |child: Child| {
        Some(Member {
            data: child.text().to_owned(),
            session: child.stat.owner()?,
            name: child.name,
        })
    };
    Group {
        version: version(&name),
        members: tree::entries(&name, &Range::all())
            .into_iter()
            .filter_map(member)
            .collect(),
    }
}

fn wait_for_change(name: String, known: u64) -> Group {
    require_name(&name);
    if version(&name) == known {
        watch::children(&name);
        call::park("");
    }
    members(name)
}

fn version(name: &str) -> u64 {
    tree::exists(name).map_or(0, |stat| stat.children_modified)
}
