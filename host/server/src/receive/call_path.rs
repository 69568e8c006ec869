//! Calls that are made by reading a path (rule C8): `<mount>/<operation>(<arguments in WAVE>)`, with `@<key>` behind it
//! if the call writes or waits.

use quorate_model::call::{Acknowledgement, CallRequest};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::path::ZnodePath;
use quorate_tree::State;

/// What such a path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallPath {
    /// All of it, as watches know it.
    pub(crate) path: ZnodePath,
    pub(crate) mount: ZnodePath,
    pub(crate) operation: String,
    /// With their parentheses.
    pub(crate) arguments: String,
    /// At least 1.
    pub(crate) key: Option<u64>,
}

impl CallPath {
    /// None if the path says no call. Whether there is such a mount is for [`CallPath::of`].
    pub(crate) fn parse(text: &str) -> Option<CallPath> {
        let (before, _) = text.split_once('(')?;
        let (mount, operation) = before.rsplit_once('/')?;
        let end = text.rfind(')')? + 1;
        let key = match &text[end..] {
            "" => None,
            behind => {
                let digits = behind.strip_prefix('@')?;
                let key = digits.parse().ok()?;
                // As a number is written: otherwise one call would have several paths.
                let is_plain = (1..=MAX_KEY).contains(&key) && key.to_string() == digits;
                Some(is_plain.then_some(key)?)
            }
        };
        Some(CallPath {
            path: ZnodePath::parse(text).ok()?,
            mount: ZnodePath::parse(mount).ok()?,
            operation: operation.to_owned(),
            arguments: text[before.len()..end].to_owned(),
            key,
        })
    }

    /// The same, if a recipe is mounted there, or was when the session made the call; and if no znode has that path: it
    /// is one's then, whatever it looks like.
    pub(crate) fn of(text: &str, session: Option<SessionId>, state: &State) -> Option<CallPath> {
        let found = CallPath::parse(text)?;
        let is_known = || {
            let standing = session.map(|session| found.standing(session, state));
            standing.is_some_and(|standing| standing != Standing::Unknown)
        };
        let says_a_call = state.stat(&found.path).is_none()
            && (state.mount(&found.mount).is_some() || is_known());
        says_a_call.then_some(found)
    }

    /// How the call stands that a session has made by reading this path.
    pub(crate) fn standing(&self, session: SessionId, state: &State) -> Standing {
        let Some(key) = self.key else {
            return Standing::Unknown;
        };
        let (call, fingerprint) = (CallId { session, key }, self.request().fingerprint());
        let answer = state.answer(call);
        if let Some(answer) = answer.filter(|it| it.fingerprint == fingerprint) {
            return Standing::Answered(answer.zxid);
        }
        let parked = state.parked(call);
        match parked.filter(|it| it.fingerprint == fingerprint) {
            Some(_) => Standing::Parked(call),
            None => Standing::Unknown,
        }
    }

    pub(crate) fn request(&self) -> CallRequest {
        CallRequest {
            key: self.key.unwrap_or(0),
            mount: self.mount.clone(),
            operation: self.operation.clone(),
            arguments: self.arguments.clone(),
            timeout_ms: None,
            acknowledged: Acknowledgement::default(),
        }
    }
}

/// How a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Since this transaction.
    Answered(Zxid),
    /// It waits.
    Parked(CallId),
    /// It was never made, or its answer is acknowledged.
    Unknown,
}

/// What the protocol's own numbers hold.
const MAX_KEY: u64 = i64::MAX.cast_unsigned();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_a_path_is_a_mount_an_operation_its_arguments_and_perhaps_a_key() {
        let parsed = |text| {
            let found = CallPath::parse(text)?;
            let mount = found.mount.as_str().to_owned();
            Some((mount, found.operation, found.arguments, found.key))
        };
        let said = |mount: &str, operation: &str, arguments: &str, key| {
            Some((
                mount.to_owned(),
                operation.to_owned(),
                arguments.to_owned(),
                key,
            ))
        };
        assert_eq!(
            parsed(r#"/locks/holder("inventory")"#),
            said("/locks", "holder", r#"("inventory")"#, None)
        );
        assert_eq!(
            parsed(r#"/a/b/locks.acquire("x/y)@2(", some(3))@71"#),
            said("/a/b", "locks.acquire", r#"("x/y)@2(", some(3))"#, Some(71))
        );
        for none in [
            "/locks/holder",
            "/locks/holder(",
            "/locks/holder()x",
            "/locks/holder()@",
            "/locks/holder()@0",
            "/locks/holder()@9223372036854775808",
            "/locks/holder()@-1",
            "/locks/holder()@07",
            "/locks/holder()@+7",
            "holder()",
            "//locks/holder()",
        ] {
            assert_eq!(parsed(none), None, "{none}");
        }
    }
}
