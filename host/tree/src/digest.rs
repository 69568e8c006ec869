//! The digest: one number by which servers see whether they have the same state.
//!
//! It is made of the sum of a hash of every record, so a change costs two hashes, of the record before and
//! after, however large the state is; nothing is kept with a record. The tables sum where they are written
//! ([`Table`](crate::table::Table) and [`NodeTable`](crate::nodes::NodeTable)), and cannot be written otherwise.
//! Of a component, which its own digest names, only that and its length are hashed.
//! The hash is xxh3: stable, and no proof against those who want two states to look the same.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::State;

/// A state's digest: that of everything that is replicated, the last transaction's number and time included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The wrapping sum of the hashes of records, in whichever order they come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    pub(crate) fn add(&mut self, hash: u64) {
        self.0 = self.0.wrapping_add(hash);
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        self.0 = self.0.wrapping_sub(hash);
    }
}

/// The hash of a value's packed form, which is the same on every server.
pub(crate) fn digest_of(value: &impl Serialize) -> u64 {
    let bytes = postcard::to_stdvec(value).expect("writing to memory cannot fail");
    xxh3_64(&bytes)
}

impl State {
    /// Of this state. Reading it costs some nanoseconds.
    pub fn digest(&self) -> Digest {
        self.digest_with([
            self.nodes.sum(),
            self.sessions.sum(),
            self.answers.sum(),
            self.calls.sum(),
            self.uploads.sum(),
            self.pieces.sum(),
            self.components.sum(),
            self.recipes.sum(),
            self.mounts.sum(),
        ])
    }

    /// The same, made anew of every record: for tests of the sums.
    #[cfg(test)]
    pub(crate) fn counted_digest(&self) -> Digest {
        self.digest_with([
            self.nodes.counted_sum(),
            self.sessions.counted_sum(),
            self.answers.counted_sum(),
            self.calls.counted_sum(),
            self.uploads.counted_sum(),
            self.pieces.counted_sum(),
            self.components.counted_sum(),
            self.recipes.counted_sum(),
            self.mounts.counted_sum(),
        ])
    }

    fn digest_with(&self, sums: [Sum; 9]) -> Digest {
        let numbers = [
            u64::from(self.epoch),
            u64::from(self.counter),
            self.time.0,
            self.sequence_floor,
            u64::from(self.version),
        ];
        let mut bytes = [0; 8 * 14];
        let all = sums.iter().map(|sum| sum.0).chain(numbers);
        for (place, number) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        Digest(xxh3_64(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use bytes::Bytes;
    use quorate_model::acl::{Acl, Identity};
    use quorate_model::bound::{Bound, MountBounds};
    use quorate_model::call::{Answer, Ending, Fingerprint, ParkedCall, Retry, Watch};
    use quorate_model::id::{CallId, Incarnation, Owner, ServerId, SessionId, Timestamp, Zxid};
    use quorate_model::path::ZnodePath;
    use quorate_model::recipe::{
        Component, Exports, Mount, Recipe, RecipeDigest, RecipeVersion, Upgrade, Upload,
    };
    use quorate_model::request::Password;
    use quorate_model::znode::{Lifetime, Stat};

    use super::*;
    use crate::apply::Records;
    use crate::snapshot::SnapshotError;
    use crate::state::{Piece, Session};

    const SESSION: SessionId = SessionId(7);
    const CALL: CallId = CallId {
        session: SESSION,
        key: 1,
    };

    fn path(text: &str) -> ZnodePath {
        ZnodePath::parse(text).unwrap()
    }

    fn narrow() -> Acl {
        let mut entry = Acl::open().0[0].clone();
        entry.permissions = 1;
        Acl::from(vec![entry])
    }

    /// A state with a record of each kind.
    fn state() -> State {
        let mut state = State::new();
        let stat = Stat {
            created: Zxid(5),
            modified: Zxid(6),
            ..state.stat(&ZnodePath::root()).unwrap()
        };
        state.insert_node(&path("/a"), stat, &narrow(), &Bytes::from_static(b"data"));
        state.put_session(
            SESSION,
            Some(Session {
                password: Password([1; 16]),
                timeout_ms: 1000,
                owner: None,
                acknowledged: 0,
                answers: 1,
                parked: 1,
                call_bytes: 2,
                ephemeral_bytes: 3,
            }),
        );
        let answer = Answer {
            fingerprint: Fingerprint([1; 16]),
            ending: Ending::Returned("1".into()),
            zxid: Zxid(9),
        };
        state.put_answer(CALL, Some(&answer));
        state.put_parked(CALL, Some(parked()));
        let component = Bytes::from_static(b"component");
        let digest = RecipeDigest::of(&component);
        let whole = upload(digest);
        state.put_piece(&whole, &component);
        state.keep_component(&whole);
        state.put_piece(&upload(UPLOADED), &component);
        let recipe = Recipe {
            name: "lock".into(),
            current: RecipeVersion {
                digest,
                version: None,
                exports: Exports::default(),
                size: 9,
                pushed_at: Timestamp(3),
            },
            older: Vec::new(),
        };
        state.put_recipe("lock", Some(&recipe));
        state.put_mount(&path("/m"), Some(&mount()));
        state
    }

    fn parked() -> ParkedCall {
        ParkedCall {
            id: CALL,
            mount: path("/m"),
            operation: "acquire".into(),
            arguments: "[]".into(),
            fingerprint: Fingerprint([2; 16]),
            identities: Vec::new(),
            started: Timestamp(1),
            deadline: None,
            age: Zxid(4),
            memo: Some(Bytes::from_static(b"memo")),
            watches: vec![Watch::Node(path("/a"))],
            created: Vec::new(),
            marked: false,
            suspected: 0,
            retry: None,
        }
    }

    const UPLOADED: RecipeDigest = RecipeDigest([9; 32]);

    /// Of nine bytes, in one piece.
    fn upload(digest: RecipeDigest) -> Upload {
        Upload {
            digest,
            bytes: 9,
            received: 9,
            pieces: 1,
            until: Timestamp(8),
        }
    }

    fn reupload(state: &mut State, edit: impl FnOnce(&mut Upload)) {
        let mut upload = upload(UPLOADED);
        edit(&mut upload);
        state.uploads.put(UPLOADED, upload, 0);
    }

    fn mount() -> Mount {
        Mount {
            path: path("/m"),
            recipe: "lock".into(),
            digest: RecipeDigest([3; 32]),
            shadow: None,
            exports: Exports::default(),
            mounted: Zxid(4),
            next_sequence: 0,
            sealed: true,
            bounds: MountBounds::default(),
            callers: Arc::new(Vec::new()),
            failures: 0,
            suspended: None,
            upgrade: None,
            unmounting: None,
        }
    }

    type Edit = fn(&mut State);

    fn restat(state: &mut State, edit: impl FnOnce(&mut Stat)) {
        let mut stat = state.stat(&path("/a")).unwrap();
        edit(&mut stat);
        state.update_node(&path("/a"), stat, None, None);
    }

    fn resession(state: &mut State, edit: impl FnOnce(&mut Session)) {
        let mut session = *state.session(SESSION).unwrap();
        edit(&mut session);
        state.put_session(SESSION, Some(session));
    }

    fn reanswer(state: &mut State, edit: impl FnOnce(&mut Answer)) {
        let mut answer = state.answer(CALL).unwrap().clone();
        edit(&mut answer);
        state.put_answer(CALL, Some(&answer));
    }

    fn repark(state: &mut State, edit: impl FnOnce(&mut ParkedCall)) {
        let mut parked = parked();
        edit(&mut parked);
        state.put_parked(CALL, Some(parked));
    }

    fn recipe(state: &mut State, edit: impl FnOnce(&mut Recipe)) {
        let mut recipe = state.recipe("lock").unwrap().clone();
        edit(&mut recipe);
        state.put_recipe("lock", Some(&recipe));
    }

    fn remount(state: &mut State, edit: impl FnOnce(&mut Mount)) {
        let mut mount = mount();
        edit(&mut mount);
        state.put_mount(&path("/m"), Some(&mount));
    }

    const UPGRADE: Upgrade = Upgrade {
        swapped: Zxid(9),
        behind: Some((Zxid(3), CALL)),
        followed_calls: 2,
        ended_calls: 1,
    };

    fn reupgrade(state: &mut State, edit: impl FnOnce(&mut Upgrade)) {
        let mut upgrade = UPGRADE;
        edit(&mut upgrade);
        remount(state, |mount| mount.upgrade = Some(upgrade));
    }

    /// One field of one record each.
    const EDITS: &[Edit] = &[
        |state| state.epoch += 1,
        |state| state.counter += 1,
        |state| state.time = state.time.plus(1),
        |state| state.sequence_floor += 1,
        |state| state.version += 1,
        |state| {
            let stat = state.stat(&path("/a")).unwrap();
            state.update_node(&path("/a"), stat, None, Some(&Bytes::from_static(b"date")));
        },
        |state| {
            let stat = state.stat(&path("/a")).unwrap();
            state.update_node(&path("/a"), stat, Some(&Acl::open()), None);
        },
        |state| {
            let stat = state.stat(&path("/a")).unwrap();
            state.remove_node(&path("/a"));
            state.insert_node(&path("/b"), stat, &narrow(), &Bytes::from_static(b"data"));
        },
        |state| restat(state, |stat| stat.created = Zxid(4)),
        |state| restat(state, |stat| stat.modified = Zxid(7)),
        |state| restat(state, |stat| stat.children_modified = Zxid(7)),
        |state| restat(state, |stat| stat.created_at = Timestamp(7)),
        |state| restat(state, |stat| stat.modified_at = Timestamp(7)),
        |state| restat(state, |stat| stat.version = 1),
        |state| restat(state, |stat| stat.children_version = 7),
        |state| restat(state, |stat| stat.acl_version = 1),
        |state| restat(state, |stat| stat.lifetime = Lifetime::Container),
        |state| restat(state, |stat| stat.lifetime = Lifetime::Session(SESSION)),
        |state| {
            restat(state, |stat| {
                stat.lifetime = Lifetime::Session(SessionId(8))
            })
        },
        |state| restat(state, |stat| stat.lifetime = Lifetime::Until(Timestamp(7))),
        |state| state.put_session(SESSION, None),
        |state| state.put_session(SessionId(8), state.session(SESSION).copied()),
        |state| resession(state, |session| session.password = Password([2; 16])),
        |state| resession(state, |session| session.timeout_ms += 1),
        |state| {
            resession(state, |session| {
                session.owner = Some(Owner {
                    server: ServerId(1),
                    incarnation: Incarnation(1),
                    connection: 1,
                });
            });
        },
        |state| resession(state, |session| session.acknowledged += 1),
        |state| resession(state, |session| session.answers += 1),
        |state| resession(state, |session| session.parked += 1),
        |state| resession(state, |session| session.call_bytes += 1),
        |state| resession(state, |session| session.ephemeral_bytes += 1),
        |state| state.put_answer(CALL, None),
        |state| reanswer(state, |answer| answer.fingerprint = Fingerprint([3; 16])),
        |state| reanswer(state, |answer| answer.ending = Ending::Failed("1".into())),
        |state| reanswer(state, |answer| answer.zxid = Zxid(10)),
        |state| state.put_parked(CALL, None),
        |state| repark(state, |call| call.mount = path("/n")),
        |state| repark(state, |call| call.operation = "release".into()),
        |state| repark(state, |call| call.arguments = "[1]".into()),
        |state| repark(state, |call| call.fingerprint = Fingerprint([3; 16])),
        |state| {
            repark(state, |call| {
                call.identities.push(Identity {
                    scheme: "ip".into(),
                    id: "::1".into(),
                });
            });
        },
        |state| repark(state, |call| call.started = Timestamp(2)),
        |state| repark(state, |call| call.deadline = Some(Timestamp(2))),
        |state| repark(state, |call| call.age = Zxid(5)),
        |state| repark(state, |call| call.memo = None),
        |state| {
            repark(state, |call| {
                call.retry = Some(Retry {
                    at: Timestamp(1),
                    failures: 1,
                });
            });
        },
        |state| {
            repark(state, |call| {
                call.watches = vec![Watch::Subtree(path("/a"))]
            })
        },
        |state| repark(state, |call| call.created.push((path("/a"), Zxid(1)))),
        |state| repark(state, |call| call.marked = true),
        |state| repark(state, |call| call.suspected = 1),
        |state| state.remove_component(&RecipeDigest::of(b"component")),
        |state| {
            let component = Component::default();
            state.components.put(RecipeDigest([0; 32]), component, 0);
        },
        |state| reupload(state, |upload| upload.bytes = 10),
        |state| reupload(state, |upload| upload.received = 8),
        |state| reupload(state, |upload| upload.pieces = 2),
        |state| reupload(state, |upload| upload.until = Timestamp(9)),
        |state| state.drop_upload(&upload(UPLOADED)),
        |state| {
            let place = (UPLOADED, 0);
            let piece = Piece::new(&place, Bytes::from_static(b"comqonent"));
            state.pieces.put(place, piece, 0);
        },
        |state| state.keep_component(&upload(UPLOADED)),
        |state| {
            recipe(state, |recipe| {
                recipe.current.digest = RecipeDigest([0; 32])
            })
        },
        |state| {
            recipe(state, |recipe| {
                recipe.current.version = Some("1.0.0".into())
            })
        },
        |state| recipe(state, |recipe| recipe.current.exports.guard = true),
        |state| recipe(state, |recipe| recipe.current.exports.standing = true),
        |state| recipe(state, |recipe| recipe.current.size = 10),
        |state| recipe(state, |recipe| recipe.current.pushed_at = Timestamp(4)),
        |state| recipe(state, |recipe| recipe.older.push(recipe.current.clone())),
        |state| state.put_recipe("lock", None),
        |state| state.put_mount(&path("/m"), None),
        |state| remount(state, |mount| mount.recipe = "other".into()),
        |state| remount(state, |mount| mount.digest = RecipeDigest([4; 32])),
        |state| remount(state, |mount| mount.mounted = Zxid(5)),
        |state| remount(state, |mount| mount.next_sequence = 1),
        |state| remount(state, |mount| mount.sealed = false),
        |state| remount(state, |mount| mount.exports.guard = true),
        |state| remount(state, |mount| mount.exports.standing = true),
        |state| {
            remount(state, |mount| {
                mount.bounds = mount.bounds.with(Bound::Fuel, Some(1))
            })
        },
        |state| {
            remount(state, |mount| {
                mount.callers = Arc::new(vec![Identity::anyone()])
            })
        },
        |state| remount(state, |mount| mount.failures = 1),
        |state| remount(state, |mount| mount.suspended = Some(String::new())),
        |state| remount(state, |mount| mount.unmounting = Some(0)),
        |state| remount(state, |mount| mount.unmounting = Some(1)),
        |state| remount(state, |mount| mount.upgrade = Some(UPGRADE)),
        |state| reupgrade(state, |upgrade| upgrade.swapped = Zxid(10)),
        |state| reupgrade(state, |upgrade| upgrade.behind = None),
        |state| reupgrade(state, |upgrade| upgrade.behind = Some((Zxid(4), CALL))),
        |state| reupgrade(state, |upgrade| upgrade.followed_calls = 3),
        |state| reupgrade(state, |upgrade| upgrade.ended_calls = 0),
    ];

    #[test]
    fn states_that_differ_in_one_field_of_one_record_have_different_digests() {
        let mut seen = HashSet::from([state().digest().0]);
        for (at, edit) in EDITS.iter().enumerate() {
            let mut edited = state();
            edit(&mut edited);
            assert_eq!(edited.digest(), edited.counted_digest(), "edit {at}");
            assert!(seen.insert(edited.digest().0), "edit {at} goes unnoticed");
        }
    }

    #[test]
    fn neither_the_order_of_creation_nor_slots_nor_numbers_of_lists_matter() {
        let stat = state().stat(&path("/a")).unwrap();
        let mut lists = [Acl::open(), narrow(), Acl::from(Vec::new())];
        let mut digests = Vec::new();
        for _ in 0..3 {
            let mut state = state();
            for list in &lists {
                let name = format!(
                    "/n{}-{:?}",
                    list.0.len(),
                    list.0.first().map(|one| one.permissions)
                );
                let at = path(&name.replace(['(', ')'], ""));
                state.insert_node(&at, stat, list, &Bytes::new());
            }
            digests.push(state.digest());
            lists.rotate_left(1);
        }
        assert_eq!(digests, [digests[0]; 3]);
    }

    #[test]
    fn n1_a_snapshot_of_a_damaged_state_is_refused() {
        let mut state = state();
        // A record changes behind the tables' back: a bit of memory, or a defect of ours.
        state.nodes.damage(&path("/a"));
        let components = state
            .begin_snapshot()
            .into_iter()
            .map(Ok::<_, SnapshotError>);
        let chunks = std::iter::from_fn(|| state.snapshot_chunk()).map(Ok::<_, SnapshotError>);
        let refused = State::load(components, chunks).err();
        let Some(SnapshotError::StateDamaged { found, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(found, state.digest());
    }
}
