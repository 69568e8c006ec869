//! A recipe's interface: its operations and their types, as the component's own type has them.

mod read;

mod documentation;
mod imports;

mod describe;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use quorate_model::recipe::Exports;

use crate::json;

pub use describe::{
    OperationDescription, ParameterDescription, RecipeDescription, TypeDescription,
};
pub use imports::abi_version;
pub(crate) use read::{decode, read};

/// What a recipe exports.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// In the component's order. At least one, unless it is a guard or stands.
    pub operations: Vec<Operation>,
    /// The export `quorate:recipe/guard`, with its version, if there is one.
    pub guard: Option<String>,
    /// The export `quorate:recipe/standing`, with its version, if there is one.
    pub standing: Option<String>,
    /// The version of the WIT package that the first exported interface of the author's is in, if it has one.
    pub version: Option<String>,
    /// What its author wrote about the exported interfaces.
    pub documentation: Option<String>,
}

/// One exported function.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The export that it stands in, such as `example:locks/lock@1.0.0`; none for a function that the
    /// world exports by itself.
    pub interface: Option<String>,
    /// Its name in WIT, in kebab-case.
    pub name: String,
    /// In order: name and type.
    pub parameters: Vec<(String, Type)>,
    /// None for a function without one.
    pub result: Option<Type>,
    /// From the WIT text that the component carries.
    pub documentation: Option<String>,
}

/// A value type: all of WIT's but resources, streams, futures, and what is not yet stable in it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the numbers say themselves what they are")]
pub enum Type {
    Bool,
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
    Char,
    String,
    /// `list<u8>`: JSON has its own forms for it.
    Bytes,
    /// Any other list.
    List(Arc<Type>),
    /// At least one.
    Tuple(Arc<[Type]>),
    /// The type of the value, if there is one.
    Option(Arc<Type>),
    /// The types of `ok` and `err`, where they carry a value.
    Result(Arc<(Option<Type>, Option<Type>)>),
    /// Has a name.
    Named(Arc<Named>),
}

/// A type with a name and a definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// In kebab-case.
    pub name: String,
    /// From the WIT text that the component carries.
    pub documentation: Option<String>,
    /// What it is.
    pub definition: Definition,
}

/// What a named type is.
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// Its fields, in order.
    Record(Vec<(String, Type)>),
    /// Its cases, in order, with what they carry.
    Variant(Vec<(String, Option<Type>)>),
    /// Its cases, in order.
    Enum(Vec<String>),
    /// Its flags, in order.
    Flags(Vec<String>),
    /// Another name for a type.
    Alias(Type),
}

impl Interface {
    /// What it exports beside its operations.
    pub fn exports(&self) -> Exports {
        Exports {
            guard: self.guard.is_some(),
            standing: self.standing.is_some(),
        }
    }

    /// The operation that a caller means by `name`: `operation`, `interface.operation`, or
    /// `package:namespace/interface@version.operation`. Gives its place in `operations`; for people if there
    /// is none, or more than one.
    pub fn find(&self, name: &str) -> Result<usize, String> {
        let mut found = self
            .operations
            .iter()
            .enumerate()
            .filter(|(_, operation)| operation.is_called(name));
        match (found.next(), found.next()) {
            (Some((place, _)), None) => Ok(place),
            (Some(_), Some(_)) => Err(format!(
                "several interfaces have an operation {name:?}: say which of {}",
                self.names()
            )),
            (None, _) => Err(format!(
                "there is no operation {name:?}; there is {}",
                self.names()
            )),
        }
    }

    /// Whether a call fits: there is such an operation, and it takes these arguments, as a call has them.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn accepts(&self, operation: &str, arguments: &str) -> Result<(), String> {
        unharmed(|| {
            let place = self.find(operation)?;
            json::arguments(&self.operations[place], arguments).map(drop)
        })
    }

    /// The operations' names, with the interface where it takes that to tell them apart.
    fn names(&self) -> String {
        let is_alone =
            |name: &str| self.operations.iter().filter(|it| it.name == name).count() == 1;
        let names = self
            .operations
            .iter()
            .map(|operation| match &operation.interface {
                Some(interface) if !is_alone(&operation.name) => {
                    format!("{}.{}", short(interface), operation.name)
                }
                _ => operation.name.clone(),
            });
        let names: Vec<String> = names.take(LISTED).collect();
        list(names.iter().map(String::as_str))
    }
}

/// Arguments are looked at by types that a recipe declares, and that of thousands of calls in a row where a mount is
/// upgraded: a defect of ours in doing so is to cost the one call, and not end the leader each time.
fn unharmed(look: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| {
        Err("its arguments cannot be read: a defect of the server, please report it".into())
    })
}

/// The most operations that a message lists.
const LISTED: usize = 30;

impl Operation {
    fn is_called(&self, name: &str) -> bool {
        if name == self.name {
            return true;
        }
        let (Some(interface), Some(prefix)) = (&self.interface, name.strip_suffix(&*self.name))
        else {
            return false;
        };
        let Some(prefix) = prefix.strip_suffix('.') else {
            return false;
        };
        prefix == interface || prefix == short(interface)
    }

    /// The whole interface and the operation, or the operation if it stands in none.
    pub fn full_name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{}.{}", interface, self.name),
            None => self.name.clone(),
        }
    }
}

/// `lock` of `example:locks/lock@1.0.0`.
fn short(interface: &str) -> &str {
    let unversioned = interface.split('@').next().unwrap_or(interface);
    unversioned.rsplit('/').next().unwrap_or(unversioned)
}

/// `a, b and c`.
pub(crate) fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.collect();
    match &words[..] {
        [] => "none".into(),
        [word] => (*word).into(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c10_a_look_at_arguments_that_panics_says_that_they_do_not_fit() {
        assert_eq!(unharmed(|| Ok(())), Ok(()));
        let harmed = unharmed(|| panic!("a type of its own"));
        assert!(harmed.is_err_and(|why| why.contains("cannot be read")));
    }
}
