//! How a recipe is mounted, as JSON says it.

use std::collections::BTreeMap;

use quorate_model::acl::Identity;
use quorate_model::bound::Bound;
use quorate_model::recipe::{self, MountSettings, RecipeDigest};
use quorate_model::znode::MAX_DATA_BYTES;
use serde::Deserialize;
use serde_json::Value;

use crate::http::problem::Problem;

/// The body of a mount.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bind {
    pub(super) recipe: String,
    /// For a component of that name other than the last pushed.
    #[serde(default)]
    pub(super) digest: Option<String>,
    /// Another component that is mounted there gives way.
    #[serde(default)]
    pub(super) upgrade: bool,
    /// Say what the upgrade would do, and do nothing.
    #[serde(default)]
    pub(super) check: bool,
    #[serde(default, deserialize_with = "present")]
    pub(super) parameters: Option<Value>,
    #[serde(default)]
    pub(super) sealed: Option<bool>,
    #[serde(default)]
    pub(super) bounds: BTreeMap<String, Option<u64>>,
    #[serde(default)]
    pub(super) callers: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present_or_null")]
    pub(super) shadow: Option<Option<Shadow>>,
}

/// Which recipe runs beside the mounted one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shadow {
    pub(super) recipe: String,
    /// For a component of that name other than the last pushed.
    #[serde(default)]
    pub(super) digest: Option<String>,
}

/// What is to change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The znode's data, as JSON text. Absent leaves them as they are, which `null` would not.
    #[serde(default, deserialize_with = "present")]
    pub(super) parameters: Option<Value>,
    #[serde(default)]
    pub(super) sealed: Option<bool>,
    /// By their names; `null` for the default.
    #[serde(default)]
    pub(super) bounds: BTreeMap<String, Option<u64>>,
    /// Each `scheme:id`.
    #[serde(default)]
    pub(super) callers: Option<Vec<String>>,
    /// `null` for none any more.
    #[serde(default, deserialize_with = "present_or_null")]
    pub(super) shadow: Option<Option<Shadow>>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn present_or_null<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Shadow>>, D::Error> {
    Option::<Shadow>::deserialize(deserializer).map(Some)
}

/// A component's digest, if one is named.
pub(super) fn read_digest(text: Option<String>) -> Result<Option<RecipeDigest>, Problem> {
    let digest = text.map(|text| text.parse()).transpose();
    digest.map_err(|error: &str| Problem::bad_request(error))
}

impl Settings {
    pub(super) fn read(self) -> Result<MountSettings, Problem> {
        let parameters = self.parameters.map(|parameters| parameters.to_string());
        if parameters
            .as_ref()
            .is_some_and(|data| data.len() > MAX_DATA_BYTES)
        {
            return Err(Problem::too_large("a mount's parameters", MAX_DATA_BYTES));
        }
        let bound = |(name, value): (String, Option<u64>)| match Bound::find(&name) {
            Some(bound) => Ok((bound, value)),
            None => {
                let names = Bound::ALL.map(Bound::name).join(", ");
                Err(Problem::bad_request(format!(
                    "there is no bound {name:?} of a mount; there is {names}"
                )))
            }
        };
        let caller = |text: String| {
            Identity::parse(&text).ok_or_else(|| {
                Problem::bad_request(format!("{text:?} is no scheme:id, such as world:anyone"))
            })
        };
        let callers = self
            .callers
            .map(|callers| callers.into_iter().map(caller).collect());
        Ok(MountSettings {
            parameters: parameters.map(Into::into),
            sealed: self.sealed,
            bounds: self
                .bounds
                .into_iter()
                .map(bound)
                .collect::<Result<_, _>>()?,
            callers: callers.transpose()?,
            shadow: self.shadow.map(shadow).transpose()?,
        })
    }
}

fn shadow(shadow: Option<Shadow>) -> Result<Option<recipe::Shadow>, Problem> {
    let Some(Shadow { recipe, digest }) = shadow else {
        return Ok(None);
    };
    let digest = read_digest(digest)?;
    Ok(Some(recipe::Shadow { recipe, digest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parameters_are_not_null_ones() {
        let bind = |text| serde_json::from_str::<Bind>(text);
        assert_eq!(bind(r#"{"recipe":"r"}"#).unwrap().parameters, None);
        assert_eq!(bind(r#"{"recipe":"r"}"#).unwrap().sealed, None);
        let null = bind(r#"{"recipe":"r","parameters":null}"#).unwrap();
        assert_eq!(null.parameters, Some(Value::Null));
        let error = bind(r#"{"recipe":"r","seal":true}"#)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("`seal`") && error.contains("`sealed`"),
            "{error}"
        );
    }

    #[test]
    fn bounds_and_callers_are_read_by_their_names() {
        let read = |text| serde_json::from_str::<Settings>(text).unwrap().read();
        let settings =
            read(r#"{"bounds":{"fuel":7,"log-lines":null},"callers":["ip:10.0.0.0/8"]}"#);
        let settings = settings.unwrap();
        assert_eq!(
            settings.bounds,
            [(Bound::Fuel, Some(7)), (Bound::LogLines, None)]
        );
        assert_eq!(settings.callers.unwrap()[0].to_string(), "ip:10.0.0.0/8");
        for wrong in [r#"{"bounds":{"feul":7}}"#, r#"{"callers":["anna"]}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
