//! Calls that are made by reading a path (rule C8): `<mount>/<operation>(<arguments in WAVE>)`, with `@<key>` behind it
//! if the call writes or waits.

use quorate_model::call::CallRequest;
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
    /// None if the path says no call. Whether there is such a mount is for [`CallPath::at_mount`].
    pub(crate) fn parse(text: &str) -> Option<CallPath> {
        let (before, _) = text.split_once('(')?;
        let (mount, operation) = before.rsplit_once('/')?;
        let end = text.rfind(')')? + 1;
        let key = match &text[end..] {
            "" => None,
            behind => {
                let digits = behind.strip_prefix('@')?;
                Some(
                    digits
                        .parse()
                        .ok()
                        .filter(|key| (1..=MAX_KEY).contains(key))?,
                )
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

    /// The same, if a recipe is mounted there; else a path is a znode's, whatever it looks like.
    pub(crate) fn at_mount(text: &str, state: &State) -> Option<CallPath> {
        let found = CallPath::parse(text)?;
        state.mount(&found.mount).is_some().then_some(found)
    }

    pub(crate) fn request(&self) -> CallRequest {
        CallRequest {
            key: self.key.unwrap_or(0),
            mount: self.mount.clone(),
            operation: self.operation.clone(),
            arguments: self.arguments.clone(),
            timeout_ms: None,
            acknowledged: 0,
        }
    }
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
            "holder()",
            "//locks/holder()",
        ] {
            assert_eq!(parsed(none), None, "{none}");
        }
    }
}
