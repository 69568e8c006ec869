//! What is shared out among members: nothing belongs to two of them, by what they were told last.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use quorate_model::id::{SessionId, Timestamp};
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, field};
use super::file::Shares;

pub(super) struct Rule {
    shares: Shares,
    told: Vec<usize>,
    leave: Vec<usize>,
    /// What each member was told last, by the group.
    groups: BTreeMap<String, BTreeMap<Member, Vec<Value>>>,
}

/// A session's member, by its name.
type Member = (SessionId, String);

impl Rule {
    pub(super) fn new(shares: &Shares, interface: &Interface) -> Result<Rule> {
        let parameters = [shares.by.as_ref(), Some(&shares.member)];
        let told = shares.told.with_parameters(interface, &parameters)?;
        if told.is_empty() {
            bail!("`told` names the operations that tell a member what it has");
        }
        Ok(Rule {
            shares: shares.clone(),
            told,
            leave: shares.leave.with_parameters(interface, &parameters)?,
            groups: BTreeMap::new(),
        })
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "shares"
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, _now: Timestamp) -> Vec<String> {
        let Some(result) = result else {
            return Vec::new();
        };
        let by = self.shares.by.as_ref();
        let key = by.map_or_else(String::new, |by| call.argument(by).to_string());
        let member = call.argument(&self.shares.member).to_string();
        let group = self.groups.entry(key).or_default();
        let member = (call.id.session, member);
        if self.leave.contains(&call.operation) {
            group.remove(&member);
        }
        if !self.told.contains(&call.operation) {
            return Vec::new();
        }
        let has = field(result, &self.shares.field).as_array();
        let has = has.cloned().unwrap_or_default();
        let mut said = Vec::new();
        for ((session, other), theirs) in &*group {
            if (*session, other) == (member.0, &member.1) {
                continue;
            }
            let both = theirs.iter().filter(|one| has.contains(one));
            said.extend(both.map(|one| format!("{call} has {one}, which {other} has")));
        }
        group.insert(member, has);
        said
    }

    fn session_ended(&mut self, session: SessionId) {
        for group in self.groups.values_mut() {
            group.retain(|(other, _), _| *other != session);
        }
    }
}
