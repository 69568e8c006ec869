//! Apply: an entry's write-sets change the state. The only mutator, deterministic, the same on every server.
//!
//! What a change does to records and indexes is written once, over [`Records`]: the committed state
//! and the leader's overlay are the two places where it is done.

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::call::{Answer, ParkedCall, Watch};
use quorate_model::id::{CallId, Owner, SessionId, Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Component, Mount, Recipe, RecipeDigest, Upload};
use quorate_model::request::Password;
use quorate_model::write_set::{Change, ENSEMBLE_VERSION, Entry, TooNew, Transaction};
use quorate_model::znode::{Lifetime, Stat};
use thiserror::Error;

use crate::state::{IndexKey, Piece, Session, State, answer_bytes, deletion_bytes, parked_bytes};

/// What an entry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It changed the state.
    Applied,
    /// It was evaluated for another state than this: nothing happened, on any server.
    NoOp,
}

/// A change does not fit the state, which is wrong then, or is more than this build reads: the server must stop serving.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("transaction {zxid} cannot be applied to the state of this server: {reason}")]
pub struct Diverged {
    /// Which transaction.
    pub zxid: Zxid,
    /// What does not fit, or is not read.
    pub reason: String,
}

impl State {
    /// Applies a committed entry, calling `applied` behind each transaction.
    ///
    /// # Errors
    /// [`Diverged`] if a change does not fit. The state is then of no use.
    pub fn apply(
        &mut self,
        entry: &Entry,
        mut applied: impl FnMut(&State, Zxid, &Transaction),
    ) -> Result<Verdict, Diverged> {
        let applied = |state: &State, zxid, transaction: &Transaction, ()| {
            applied(state, zxid, transaction);
        };
        self.apply_around(entry, |_, _, _| (), applied)
    }

    /// The same, calling `before` in front of each transaction, which finds the state as that will, and handing what it
    /// gives to `applied`. Neither is called for an entry that is a no-op.
    ///
    /// # Errors
    /// [`Diverged`] if a change does not fit. The state is then of no use.
    pub fn apply_around<T>(
        &mut self,
        entry: &Entry,
        mut before: impl FnMut(&State, Zxid, &Transaction) -> T,
        mut applied: impl FnMut(&State, Zxid, &Transaction, T),
    ) -> Result<Verdict, Diverged> {
        match entry {
            Entry::EpochStart(start) => {
                if start.epoch.checked_sub(1) != Some(self.epoch) {
                    return Ok(Verdict::NoOp);
                }
                self.epoch = start.epoch;
                self.counter = 0;
                self.time = self.time.max(start.time);
                self.suspect(start.suspect);
            }
            Entry::Transactions(batch) => {
                let next = self.counter.checked_add(1);
                if batch.epoch != self.epoch || next != Some(batch.first_counter) {
                    return Ok(Verdict::NoOp);
                }
                for transaction in &batch.transactions {
                    let zxid = self.next_zxid()?;
                    let seen = before(self, zxid, transaction);
                    self.apply_transaction(zxid, transaction)?;
                    applied(self, zxid, transaction, seen);
                }
            }
        }
        Ok(Verdict::Applied)
    }

    /// Counts one more epoch that begins with the run of this call.
    fn suspect(&mut self, call: Option<CallId>) {
        let parked = call.and_then(|call| self.calls.get(&call).cloned());
        if let Some(mut parked) = parked {
            parked.suspected = parked.suspected.saturating_add(1);
            self.put_parked(parked.id, Some(parked));
        }
    }

    /// The next transaction's.
    fn next_zxid(&self) -> Result<Zxid, Diverged> {
        let counter = self.counter.checked_add(1);
        let zxid = counter.map(|counter| Zxid::new(self.epoch, counter));
        zxid.ok_or_else(|| Diverged {
            zxid: self.last_zxid(),
            reason: "the counter is used up".into(),
        })
    }

    fn apply_transaction(&mut self, zxid: Zxid, transaction: &Transaction) -> Result<(), Diverged> {
        self.counter = zxid.counter();
        self.time = self.time.max(transaction.time);
        let moment = Moment {
            zxid,
            time: transaction.time,
        };
        for change in &transaction.changes {
            apply_change(self, moment, change).map_err(|reason| Diverged {
                zxid: moment.zxid,
                reason,
            })?;
        }
        Ok(())
    }
}

/// Which transaction, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) zxid: Zxid,
    pub(crate) time: Timestamp,
}

/// The records that changes change. What is removed or updated is there: [`apply_change`] has looked.
pub(crate) trait Records {
    fn stat(&self, path: &ZnodePath) -> Option<Stat>;
    /// Also puts it into its parent's list.
    fn insert_node(&mut self, path: &ZnodePath, stat: Stat, acl: &Acl, data: &Bytes);
    fn update_node(
        &mut self,
        path: &ZnodePath,
        stat: Stat,
        acl: Option<&Acl>,
        data: Option<&Bytes>,
    );
    fn remove_node(&mut self, path: &ZnodePath);

    fn session(&self, session: SessionId) -> Option<Session>;
    fn put_session(&mut self, session: SessionId, value: Option<Session>);

    /// The bytes that [`answer_bytes`] counts; none if there is no such answer.
    fn answer_bytes(&self, call: CallId) -> Option<u64>;
    fn answers_up_to(&self, session: SessionId, key: u64) -> Vec<CallId>;
    fn put_answer(&mut self, call: CallId, answer: Option<&Answer>);

    fn parked(&self, call: CallId) -> Option<ParkedCall>;
    fn put_parked(&mut self, call: CallId, parked: Option<ParkedCall>);

    fn upload(&self, digest: &RecipeDigest) -> Option<Upload>;
    /// The upload's last piece.
    fn put_piece(&mut self, upload: &Upload, piece: &Bytes);
    /// With its pieces.
    fn drop_upload(&mut self, upload: &Upload);
    /// Makes a component of an upload that is whole.
    fn keep_component(&mut self, upload: &Upload);
    fn remove_component(&mut self, digest: &RecipeDigest);
    fn put_recipe(&mut self, name: &str, recipe: Option<&Recipe>);
    fn mount(&self, path: &ZnodePath) -> Option<Mount>;
    fn put_mount(&mut self, path: &ZnodePath, mount: Option<&Mount>);
    fn sequence_floor(&self) -> u64;
    fn put_sequence_floor(&mut self, floor: u64);
    fn version(&self) -> u32;
    fn put_version(&mut self, version: u32);

    fn add_index(&mut self, key: IndexKey);
    fn remove_index(&mut self, key: IndexKey);
}

/// Does one change. An error says what does not fit.
pub(crate) fn apply_change(
    records: &mut impl Records,
    moment: Moment,
    change: &Change,
) -> Result<(), String> {
    let missing = |what: &dyn std::fmt::Display| format!("{what} is not there");
    match change {
        Change::CreateNode {
            path,
            data,
            acl,
            lifetime,
        } => {
            let parent = path.parent().ok_or("the root is created again")?;
            if records.stat(path).is_some() {
                return Err(format!("{path} is there already"));
            }
            let parent = records.stat(&parent).ok_or_else(|| missing(&parent))?;
            if !parent.lifetime.allows_children() {
                return Err(format!("the parent of {path} cannot have children"));
            }
            records.insert_node(path, new_stat(moment, *lifetime, data.len()), acl, data);
            begin_lifetime(records, *lifetime, path)?;
        }
        Change::DeleteNode { path } => {
            let stat = records.stat(path).ok_or_else(|| missing(path))?;
            if stat.children > 0 || path.is_root() {
                return Err(format!("{path} has children"));
            }
            end_lifetime(records, stat.lifetime, path)?;
            records.remove_node(path);
        }
        Change::TouchParent {
            path,
            children_version,
        } => {
            let mut stat = records.stat(path).ok_or_else(|| missing(path))?;
            stat.children_version = *children_version;
            stat.children_modified = moment.zxid;
            records.update_node(path, stat, None, None);
        }
        Change::SetData {
            path,
            data,
            version,
        } => {
            let mut stat = records.stat(path).ok_or_else(|| missing(path))?;
            stat.version = *version;
            stat.modified = moment.zxid;
            stat.modified_at = moment.time;
            stat.data_length = data.len() as u32;
            records.update_node(path, stat, None, Some(data));
        }
        Change::SetAcl {
            path,
            acl,
            acl_version,
        } => {
            let mut stat = records.stat(path).ok_or_else(|| missing(path))?;
            stat.acl_version = *acl_version;
            records.update_node(path, stat, Some(acl), None);
        }
        Change::SetLifetime { path, lifetime } => {
            let mut stat = records.stat(path).ok_or_else(|| missing(path))?;
            if stat.children > 0 && !lifetime.allows_children() {
                return Err(format!("{path} has children"));
            }
            end_lifetime(records, stat.lifetime, path)?;
            begin_lifetime(records, *lifetime, path)?;
            stat.lifetime = *lifetime;
            records.update_node(path, stat, None, None);
        }
        Change::OpenSession {
            password,
            timeout_ms,
            owner,
        } => {
            let session = new_session(*password, *timeout_ms, *owner);
            records.put_session(SessionId(moment.zxid.0), Some(session));
        }
        Change::UpgradeSession {
            session,
            password,
            timeout_ms,
            owner,
        } => {
            if records.session(*session).is_some() {
                return Err(format!("session {session} is global already"));
            }
            let value = new_session(*password, *timeout_ms, Some(*owner));
            records.put_session(*session, Some(value));
        }
        Change::MoveSession {
            session,
            owner,
            timeout_ms,
        } => {
            let mut value = records.session(*session).ok_or_else(|| missing(session))?;
            value.owner = *owner;
            value.timeout_ms = *timeout_ms;
            records.put_session(*session, Some(value));
        }
        Change::CloseSession { session } => {
            let value = records.session(*session).ok_or_else(|| missing(session))?;
            if value.parked > 0 {
                return Err(format!("session {session} ends with parked calls"));
            }
            let answers = records.answers_up_to(*session, u64::MAX);
            forget_answers(records, *session, answers)?;
            records.put_session(*session, None);
        }
        Change::Park(call) => {
            let before = records.parked(call.id);
            // A standing call is held by nobody but its mount.
            if !call.id.is_standing() {
                let mut session = records
                    .session(call.id.session)
                    .ok_or_else(|| missing(&call.id.session))?;
                match &before {
                    Some(before) => session.call_bytes -= parked_bytes(before),
                    None => session.parked += 1,
                }
                session.call_bytes += parked_bytes(call);
                records.put_session(call.id.session, Some(session));
            }
            if let Some(before) = before {
                remove_call_indexes(records, &before);
            }
            call_indexes(call).for_each(|key| records.add_index(key));
            records.put_parked(call.id, Some(ParkedCall::clone(call)));
        }
        Change::Unpark(call) => {
            let parked = records.parked(*call).ok_or_else(|| missing(call))?;
            if !call.is_standing() {
                let mut session = records
                    .session(call.session)
                    .ok_or_else(|| missing(&call.session))?;
                session.parked -= 1;
                session.call_bytes -= parked_bytes(&parked);
                records.put_session(call.session, Some(session));
            }
            remove_call_indexes(records, &parked);
            records.put_parked(*call, None);
        }
        Change::Mark(call) => {
            let mut parked = records.parked(*call).ok_or_else(|| missing(call))?;
            remove_call_indexes(records, &parked);
            parked.marked = true;
            call_indexes(&parked).for_each(|key| records.add_index(key));
            records.put_parked(*call, Some(parked));
        }
        Change::PutAnswer { call, answer } => {
            let mut session = records
                .session(call.session)
                .ok_or_else(|| missing(&call.session))?;
            if records.answer_bytes(*call).is_some() {
                return Err(format!("call {call} is answered twice"));
            }
            session.answers += 1;
            session.call_bytes += answer_bytes(answer);
            records.put_session(call.session, Some(session));
            records.put_answer(*call, Some(answer));
        }
        Change::Acknowledge {
            session,
            mark,
            forgotten,
        } => {
            let mut value = records.session(*session).ok_or_else(|| missing(session))?;
            if *mark < value.acknowledged {
                return Err(format!("the mark of session {session} goes down to {mark}"));
            }
            value.acknowledged = *mark;
            records.put_session(*session, Some(value));
            let session = *session;
            let calls = forgotten.iter().map(|&key| CallId { session, key });
            forget_answers(records, session, calls.collect())?;
        }
        Change::PutPiece { upload, piece } => {
            let (mut pieces, mut received) = (0, 0);
            if let Some(before) = records.upload(&upload.digest) {
                (pieces, received) = (before.pieces, before.received);
                records.remove_index(IndexKey::Upload(before.until, before.digest));
            }
            let fits = upload.pieces == pieces + 1
                && upload.received == received + piece.len() as u64
                && upload.received <= upload.bytes;
            if !fits {
                return Err(format!("a piece of {} is out of place", upload.digest));
            }
            records.add_index(IndexKey::Upload(upload.until, upload.digest));
            records.put_piece(upload, piece);
        }
        Change::DropUpload { digest } => {
            let upload = records.upload(digest).ok_or_else(|| missing(digest))?;
            records.remove_index(IndexKey::Upload(upload.until, upload.digest));
            records.drop_upload(&upload);
        }
        Change::KeepComponent { digest } => {
            let upload = records.upload(digest).ok_or_else(|| missing(digest))?;
            if upload.received != upload.bytes {
                return Err(format!("the upload of {digest} is not whole"));
            }
            records.remove_index(IndexKey::Upload(upload.until, upload.digest));
            records.keep_component(&upload);
        }
        Change::RemoveComponent { digest } => records.remove_component(digest),
        Change::PutRecipe(recipe) => records.put_recipe(&recipe.name, Some(recipe)),
        Change::RemoveRecipe { name } => records.put_recipe(name, None),
        Change::PutMount(mount) => records.put_mount(&mount.path, Some(mount)),
        Change::SetSequence { mount: path, next } => {
            let mut mount = records.mount(path).ok_or_else(|| missing(path))?;
            mount.next_sequence = *next;
            records.put_mount(path, Some(&mount));
        }
        Change::CountFailures {
            mount: path,
            failures,
        } => {
            let mut mount = records.mount(path).ok_or_else(|| missing(path))?;
            mount.failures = *failures;
            records.put_mount(path, Some(&mount));
        }
        Change::Suspend {
            mount: path,
            reason,
        } => {
            let mut mount = records.mount(path).ok_or_else(|| missing(path))?;
            mount.failures = 0;
            mount.suspended = reason.clone();
            records.put_mount(path, Some(&mount));
        }
        Change::SetUnmounting {
            mount: path,
            ended_calls,
        } => {
            let mut mount = records.mount(path).ok_or_else(|| missing(path))?;
            mount.unmounting = Some(*ended_calls);
            records.put_mount(path, Some(&mount));
        }
        Change::SetUpgrade {
            mount: path,
            upgrade,
        } => {
            let mut mount = records.mount(path).ok_or_else(|| missing(path))?;
            mount.upgrade = Some(*upgrade);
            records.put_mount(path, Some(&mount));
        }
        Change::RemoveMount { path } => {
            let mount = records.mount(path).ok_or_else(|| missing(path))?;
            let floor = records.sequence_floor().max(mount.next_sequence);
            records.put_sequence_floor(floor);
            records.put_mount(path, None);
        }
        Change::RaiseVersion { version } => {
            if *version > ENSEMBLE_VERSION {
                return Err(TooNew(*version).to_string());
            }
            let before = records.version();
            if *version <= before {
                return Err(format!("version {before} is raised to {version}"));
            }
            records.put_version(*version);
        }
    }
    Ok(())
}

/// A new znode's.
fn new_stat(moment: Moment, lifetime: Lifetime, data_length: usize) -> Stat {
    Stat {
        created: moment.zxid,
        modified: moment.zxid,
        children_modified: moment.zxid,
        created_at: moment.time,
        modified_at: moment.time,
        version: 0,
        children_version: 0,
        acl_version: 0,
        lifetime,
        data_length: data_length as u32,
        children: 0,
    }
}

fn new_session(password: Password, timeout_ms: u32, owner: Option<Owner>) -> Session {
    Session {
        password,
        timeout_ms,
        owner,
        acknowledged: 0,
        answers: 0,
        parked: 0,
        call_bytes: 0,
        ephemeral_bytes: 0,
    }
}

fn forget_answers(
    records: &mut impl Records,
    session: SessionId,
    calls: Vec<CallId>,
) -> Result<(), String> {
    let mut value = records
        .session(session)
        .ok_or_else(|| format!("session {session} is not there"))?;
    for call in &calls {
        let bytes = records.answer_bytes(*call);
        value.call_bytes -= bytes.ok_or_else(|| format!("call {call} has no answer"))?;
        value.answers -= 1;
        records.put_answer(*call, None);
    }
    records.put_session(session, Some(value));
    Ok(())
}

/// A znode begins to live as long as `lifetime` says.
fn begin_lifetime(
    records: &mut impl Records,
    lifetime: Lifetime,
    path: &ZnodePath,
) -> Result<(), String> {
    if let Lifetime::Session(id) = lifetime {
        let mut session = records
            .session(id)
            .ok_or_else(|| format!("session {id} is not there"))?;
        session.ephemeral_bytes += deletion_bytes(path);
        records.put_session(id, Some(session));
    }
    if let Some(key) = index_lifetime(lifetime, path) {
        records.add_index(key);
    }
    Ok(())
}

/// It does not any more.
fn end_lifetime(
    records: &mut impl Records,
    lifetime: Lifetime,
    path: &ZnodePath,
) -> Result<(), String> {
    if let Lifetime::Session(id) = lifetime {
        let mut session = records
            .session(id)
            .ok_or_else(|| format!("session {id} is not there"))?;
        session.ephemeral_bytes -= deletion_bytes(path);
        records.put_session(id, Some(session));
    }
    if let Some(key) = index_lifetime(lifetime, path) {
        records.remove_index(key);
    }
    Ok(())
}

fn remove_call_indexes(records: &mut impl Records, call: &ParkedCall) {
    call_indexes(call).for_each(|key| records.remove_index(key));
}

/// Where a znode of this lifetime is found.
pub(crate) fn index_lifetime(lifetime: Lifetime, path: &ZnodePath) -> Option<IndexKey> {
    match lifetime {
        Lifetime::Session(session) => Some(IndexKey::Ephemeral(session, path.clone())),
        Lifetime::Until(moment) => Some(IndexKey::Lease(moment, path.clone())),
        Lifetime::Persistent | Lifetime::Container => None,
    }
}

/// Where a parked call is found. One that is marked has no watches any more: it cannot be woken twice.
pub(crate) fn call_indexes(call: &ParkedCall) -> impl Iterator<Item = IndexKey> {
    let id = call.id;
    let waiting = if call.marked { &[] } else { &call.watches[..] };
    let watches = waiting.iter().map(move |watch| match watch {
        Watch::Time(moment) => IndexKey::Alarm(*moment, id),
        watch => IndexKey::Watch(watch.clone(), id),
    });
    let retry = call.retry.filter(|_| !call.marked);
    watches
        .chain(retry.map(|retry| IndexKey::Alarm(retry.at, id)))
        .chain(call.deadline.map(|deadline| IndexKey::Alarm(deadline, id)))
        .chain(call.marked.then_some(IndexKey::Mark(call.age, id)))
        .chain([IndexKey::CallOf(call.mount.clone(), call.age, id)])
}

impl Records for State {
    fn stat(&self, path: &ZnodePath) -> Option<Stat> {
        State::stat(self, path)
    }

    fn insert_node(&mut self, path: &ZnodePath, stat: Stat, acl: &Acl, data: &Bytes) {
        let parent = path.parent().and_then(|parent| self.nodes.find(&parent));
        let parent = parent.expect("apply_change has seen the parent");
        let slot = self.nodes.insert(parent, path.name(), &stat, acl, data);
        self.nodes.marks[slot as usize] = self.mark;
    }

    fn update_node(
        &mut self,
        path: &ZnodePath,
        stat: Stat,
        acl: Option<&Acl>,
        data: Option<&Bytes>,
    ) {
        let slot = self.nodes.find(path).expect("apply_change has seen it");
        self.save_node(slot);
        self.nodes
            .replace(slot, &stat, acl, data.map(|data| &**data));
    }

    fn remove_node(&mut self, path: &ZnodePath) {
        let slot = self.nodes.find(path).expect("apply_change has seen it");
        self.save_node(slot);
        self.nodes.remove(slot);
    }

    fn session(&self, session: SessionId) -> Option<Session> {
        self.sessions.get(&session).copied()
    }

    fn put_session(&mut self, session: SessionId, value: Option<Session>) {
        let uncovered = match value {
            Some(value) => self.sessions.put(session, value, self.mark),
            None => uncovered(self.sessions.remove(&session, self.mark)),
        };
        self.save(&session, uncovered.as_ref());
    }

    fn answer_bytes(&self, call: CallId) -> Option<u64> {
        self.answers.get(&call).map(answer_bytes)
    }

    fn answers_up_to(&self, session: SessionId, key: u64) -> Vec<CallId> {
        self.answers_of(session, key).collect()
    }

    fn put_answer(&mut self, call: CallId, answer: Option<&Answer>) {
        if let Some(before) = self.answers.get(&call) {
            self.held.all.remove(answer_bytes(before));
        }
        if let Some(answer) = answer {
            self.held.all.add(answer_bytes(answer));
        }
        let uncovered = match answer {
            Some(answer) => self.answers.put(call, answer.clone(), self.mark),
            None => uncovered(self.answers.remove(&call, self.mark)),
        };
        self.save(&call, uncovered.as_ref());
    }

    fn parked(&self, call: CallId) -> Option<ParkedCall> {
        self.calls.get(&call).cloned()
    }

    fn put_parked(&mut self, call: CallId, parked: Option<ParkedCall>) {
        if let Some(before) = self.calls.get(&call) {
            self.held.remove_parked(before);
        }
        if let Some(parked) = &parked {
            self.held.add_parked(parked);
        }
        let uncovered = match parked {
            Some(parked) => self.calls.put(call, parked, self.mark),
            None => uncovered(self.calls.remove(&call, self.mark)),
        };
        self.save(&call, uncovered.as_ref());
    }

    fn upload(&self, digest: &RecipeDigest) -> Option<Upload> {
        self.uploads.get(digest).cloned()
    }

    fn put_piece(&mut self, upload: &Upload, piece: &Bytes) {
        let digest = upload.digest;
        let before = self.uploads.put(digest, upload.clone(), self.mark);
        self.save(&digest, before.as_ref());
        let place = (digest, upload.pieces - 1);
        let piece = Piece::new(&place, piece.clone());
        self.pieces.put(place, piece, self.mark);
    }

    fn drop_upload(&mut self, upload: &Upload) {
        self.take_pieces(upload);
    }

    fn keep_component(&mut self, upload: &Upload) {
        let component = Component::new(self.take_pieces(upload));
        // A snapshot that is being written is of a moment without it, and the pieces are in that.
        self.components.put(upload.digest, component, self.mark);
    }

    fn remove_component(&mut self, digest: &RecipeDigest) {
        let uncovered = uncovered(self.components.remove(digest, self.mark));
        self.save(digest, uncovered.as_ref());
    }

    fn put_recipe(&mut self, name: &str, recipe: Option<&Recipe>) {
        let name = name.to_owned();
        let uncovered = match recipe {
            Some(recipe) => self.recipes.put(name.clone(), recipe.clone(), self.mark),
            None => uncovered(self.recipes.remove(&name, self.mark)),
        };
        self.save(&name, uncovered.as_ref());
    }

    fn mount(&self, path: &ZnodePath) -> Option<Mount> {
        self.mounts.get(path).cloned()
    }

    fn put_mount(&mut self, path: &ZnodePath, mount: Option<&Mount>) {
        let uncovered = match mount {
            Some(mount) => self.mounts.put(path.clone(), mount.clone(), self.mark),
            None => uncovered(self.mounts.remove(path, self.mark)),
        };
        self.save(path, uncovered.as_ref());
    }

    fn sequence_floor(&self) -> u64 {
        self.sequence_floor
    }

    fn put_sequence_floor(&mut self, floor: u64) {
        self.sequence_floor = floor;
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn put_version(&mut self, version: u32) {
        self.version = version;
    }

    fn add_index(&mut self, key: IndexKey) {
        self.index.insert(key);
    }

    fn remove_index(&mut self, key: IndexKey) {
        self.index.remove(&key);
    }
}

impl State {
    /// Takes an upload out; gives its pieces in order.
    fn take_pieces(&mut self, upload: &Upload) -> Vec<Bytes> {
        let before = uncovered(self.uploads.remove(&upload.digest, self.mark));
        self.save(&upload.digest, before.as_ref());
        let mut pieces = Vec::new();
        for index in 0..upload.pieces {
            let place = (upload.digest, index);
            if let Some((piece, covered)) = self.pieces.remove(&place, self.mark) {
                self.save(&place, (!covered).then_some(&piece));
                pieces.push(piece.bytes);
            }
        }
        pieces
    }
}

fn uncovered<V>(removed: Option<(V, bool)>) -> Option<V> {
    removed.and_then(|(old, covered)| (!covered).then_some(old))
}
