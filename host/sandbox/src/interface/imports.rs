//! What a recipe imports, held against `quorate:recipe` as this server has it.

use std::collections::HashMap;
use std::sync::LazyLock;

use wit_parser::{InterfaceId, Resolve, TypeDefKind, TypeId, WorldId, WorldItem};

use super::documentation::Documentation;
use super::read::Types;
use super::{Definition, Operation, Type};
use crate::check::UploadError;
use crate::limits::UploadLimits;

/// The ABI as this server has it.
pub(crate) const ABI: &str = include_str!("../../../../wit/recipe.wit");
const NAMESPACE: &str = "quorate";
const PACKAGE: &str = "recipe";

struct Abi {
    resolve: Resolve,
    interfaces: HashMap<String, InterfaceId>,
    version: String,
}

static PARSED_ABI: LazyLock<Abi> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("recipe.wit", ABI)
        .expect("the ABI's own text parses");
    let package = &resolve.packages[package];
    let interfaces = package.interfaces.clone().into_iter().collect();
    let version = package.name.version.as_ref();
    Abi {
        version: version.map_or_else(String::new, ToString::to_string),
        interfaces,
        resolve,
    }
});

/// The version of `quorate:recipe` that this server has.
pub fn abi_version() -> &'static str {
    &PARSED_ABI.version
}

/// Whatever a recipe imports is in our package, in a version that we have, and means what it means here.
pub(crate) fn check_imports(resolve: &Resolve, world: WorldId) -> Result<(), UploadError> {
    for (key, item) in &resolve.worlds[world].imports {
        let name = resolve.name_world_key(key);
        match item {
            WorldItem::Interface { id, .. } => {
                if let Some(ours) = our_interface(resolve, *id)? {
                    check_functions(resolve, *id, ours)?;
                } else if !only_types(resolve, *id) {
                    return Err(UploadError::ForeignImport(name));
                }
            }
            WorldItem::Function(_) => return Err(UploadError::ForeignImport(name)),
            WorldItem::Type { .. } => {}
        }
    }
    Ok(())
}

/// An interface whose functions the component exports may use types of another one: that comes as an
/// import which asks nothing of the server.
fn only_types(resolve: &Resolve, id: InterfaceId) -> bool {
    let interface = &resolve.interfaces[id];
    let is_resource = |ty: &TypeId| matches!(resolve.types[*ty].kind, TypeDefKind::Resource);
    interface.functions.is_empty() && !interface.types.values().any(is_resource)
}

/// The name of the interface if it is of our package; refuses another version of it.
pub(crate) fn our_interface(
    resolve: &Resolve,
    id: InterfaceId,
) -> Result<Option<&str>, UploadError> {
    let interface = &resolve.interfaces[id];
    let (Some(package), Some(name)) = (interface.package, &interface.name) else {
        return Ok(None);
    };
    let package = &resolve.packages[package].name;
    if package.namespace != NAMESPACE || package.name != PACKAGE {
        return Ok(None);
    }
    let compatible = package
        .version
        .as_ref()
        .is_some_and(|version| (version.major, version.minor) == (0, 1) && version.pre.is_empty());
    if !compatible {
        return Err(UploadError::AbiVersion {
            found: package
                .version
                .as_ref()
                .map_or_else(|| "no version".into(), ToString::to_string),
            ours: abi_version(),
        });
    }
    Ok(Some(name))
}

/// Each function in the interface is one of ours, with the same type.
pub(crate) fn check_functions(
    resolve: &Resolve,
    id: InterfaceId,
    name: &str,
) -> Result<(), UploadError> {
    let interface = &resolve.interfaces[id];
    let Some(ours) = PARSED_ABI.interfaces.get(name) else {
        return Err(UploadError::UnknownToAbi {
            what: format!("the interface {name}"),
            ours: abi_version(),
        });
    };
    let ours = &PARSED_ABI.resolve.interfaces[*ours];
    let limits = UploadLimits::default();
    let mut theirs_types = Types::new(resolve, &limits, Documentation::default());
    let mut our_types = Types::new(&PARSED_ABI.resolve, &limits, Documentation::default());
    for (function_name, function) in &interface.functions {
        let Some(our_function) = ours.functions.get(function_name) else {
            return Err(UploadError::UnknownToAbi {
                what: format!("the function {name}.{function_name}"),
                ours: abi_version(),
            });
        };
        let theirs = theirs_types.operation(None, function)?;
        let expected = our_types.operation(None, our_function)?;
        if !same_signature(&theirs, &expected) {
            return Err(UploadError::AbiMismatch {
                function: format!("{name}.{function_name}"),
                ours: abi_version(),
            });
        }
    }
    Ok(())
}

fn same_signature(one: &Operation, other: &Operation) -> bool {
    let parameters = one.parameters.iter().zip(&other.parameters);
    one.parameters.len() == other.parameters.len()
        && parameters
            .into_iter()
            .all(|((_, one), (_, other))| same(one, other))
        && match (&one.result, &other.result) {
            (Some(one), Some(other)) => same(one, other),
            (None, None) => true,
            _ => false,
        }
}

/// Whether two types are the same but for names of types.
fn same(one: &Type, other: &Type) -> bool {
    let same_option = |one: &Option<Type>, other: &Option<Type>| match (one, other) {
        (Some(one), Some(other)) => same(one, other),
        (None, None) => true,
        _ => false,
    };
    match (unaliased(one), unaliased(other)) {
        (Type::List(one), Type::List(other)) | (Type::Option(one), Type::Option(other)) => {
            same(one, other)
        }
        (Type::Tuple(one), Type::Tuple(other)) => {
            one.len() == other.len() && one.iter().zip(&**other).all(|(a, b)| same(a, b))
        }
        (Type::Result(one), Type::Result(other)) => {
            same_option(&one.0, &other.0) && same_option(&one.1, &other.1)
        }
        (Type::Named(one), Type::Named(other)) => match (&one.definition, &other.definition) {
            (Definition::Record(one), Definition::Record(other)) => {
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(other)
                        .all(|((a, one), (b, other))| a == b && same(one, other))
            }
            (Definition::Variant(one), Definition::Variant(other)) => {
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(other)
                        .all(|((a, one), (b, other))| a == b && same_option(one, other))
            }
            (one, other) => one == other,
        },
        (one, other) => one == other,
    }
}

fn unaliased(ty: &Type) -> &Type {
    match ty {
        Type::Named(named) => match &named.definition {
            Definition::Alias(target) => unaliased(target),
            _ => ty,
        },
        _ => ty,
    }
}
