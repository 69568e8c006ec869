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

        /// Some of a group's members.
        record member-page {
            /// The group's: if the next page has another one, the group has changed in between.
            version: u64,
            /// By their names.
            members: list<member>,
            /// The `after` of the next page; none if these were the last.
            next: option<string>,
        }

        /// Joins under a name, with data for others to read: 4 KiB at most (`member-bytes`). A member that is
        /// there already changes its data. Refused if another session has that name.
        join: func(name: string, member: string, data: string);

        /// Leaves; says whether this session was there under that name.
        leave: func(name: string, member: string) -> bool;

        /// Who is there, if that fits one answer: 5,000 members, and 512 KiB. Refused if there are more:
        /// `members-after` tells of them too.
        members: func(name: string) -> group;

        /// Who is there under the names behind `after`, in their order: `most` at most, and what fits one
        /// answer. With none it begins at the first.
        members-after: func(name: string, after: option<string>, most: u32) -> member-page;

        /// Waits until the version is another than `known`; gives the group as it is then. Of several
        /// changes meanwhile, the last. Every call that waits is woken by every change. Refused if the group
        /// does not fit one answer: `wait-for-version` and `members-after` do the same.
        wait-for-change: func(name: string, known: u64) -> group;

        /// Waits likewise, and gives the version alone.
        wait-for-version: func(name: string, known: u64) -> u64;
    }

    world recipe {
        export membership;
    }
"#
);

/// What a member says of itself: it is read by all, with that of all others.
const MAX_MEMBER_BYTES: usize = 4 << 10;

fn join(name: String, member: String, data: String) {
    require_name(&name);
    require_name(&member);
    bound::require_bytes("member-bytes", &data, MAX_MEMBER_BYTES);
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
    Group {
        version: version(&name),
        members: page::read(&name, member).all_or_refuse("members-after"),
    }
}

fn members_after(name: String, after: Option<String>, most: u32) -> MemberPage {
    require_name(&name);
    let page = page::read_after(&name, after, most, member);
    MemberPage {
        version: version(&name),
        members: page.items,
        next: page.next,
    }
}

fn wait_for_change(name: String, known: u64) -> Group {
    wait_for_version(name.clone(), known);
    members(name)
}

fn wait_for_version(name: String, known: u64) -> u64 {
    require_name(&name);
    let version = version(&name);
    if version == known {
        watch::children(&name);
        call::park("");
    }
    version
}

/// A member, and its bytes as JSON.
fn member(child: Child) -> (Option<Member>, usize) {
    let bytes = 60 + page::json_bytes(&child.name) + page::json_bytes(child.text());
    let member = child.stat.owner().map(|session| Member {
        data: child.text().to_owned(),
        session,
        name: child.name,
    });
    (member, bytes)
}

fn version(name: &str) -> u64 {
    tree::exists(name).map_or(0, |stat| stat.children_modified)
}
