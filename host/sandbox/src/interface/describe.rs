//! An interface for people and programs: what `recipe show` prints and HTTP gives as JSON.

use std::{fmt, ptr};

use serde::{Deserialize, Serialize};

use super::{Definition, Interface, Named, Type};

/// All that a caller needs to know about a recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeDescription {
    /// What its author wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
    /// The version of its WIT package, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it is asked about other clients' writes below its mount.
    #[serde(default)]
    pub guard: bool,
    /// Whether it runs without being called.
    #[serde(default)]
    pub standing: bool,
    /// In the component's order.
    pub operations: Vec<OperationDescription>,
    /// The named types that the operations use, each before whatever uses it.
    pub types: Vec<TypeDescription>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationDescription {
    /// What a call names.
    pub name: String,
    /// The export that it stands in, such as `example:locks/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// In order.
    pub parameters: Vec<ParameterDescription>,
    /// The result's type in WIT; none for an operation without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What its author wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterDescription {
    /// Its name.
    pub name: String,
    /// Its type in WIT.
    #[serde(rename = "type")]
    pub ty: String,
}

/// One named type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeDescription {
    /// Its name.
    pub name: String,
    /// Its definition in WIT, in one line.
    pub definition: String,
    /// What its author wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation: Option<String>,
}

impl OperationDescription {
    /// `acquire(name: string) -> grant`.
    pub fn signature(&self) -> String {
        let parameters: Vec<String> = self
            .parameters
            .iter()
            .map(|parameter| format!("{}: {}", parameter.name, parameter.ty))
            .collect();
        let result = match &self.result {
            Some(result) => format!(" -> {result}"),
            None => String::new(),
        };
        format!("{}({}){result}", self.name, parameters.join(", "))
    }
}

impl Interface {
    /// The interface for people and programs.
    pub fn describe(&self) -> RecipeDescription {
        let mut types = Vec::new();
        for operation in &self.operations {
            let parameters = operation.parameters.iter().map(|(_, ty)| ty);
            for ty in parameters.chain(&operation.result) {
                collect(ty, &mut types);
            }
        }
        RecipeDescription {
            documentation: self.documentation.clone(),
            version: self.version.clone(),
            guard: self.guard.is_some(),
            standing: self.standing.is_some(),
            operations: self
                .operations
                .iter()
                .map(|operation| OperationDescription {
                    name: operation.name.clone(),
                    interface: operation.interface.clone(),
                    parameters: operation
                        .parameters
                        .iter()
                        .map(|(name, ty)| ParameterDescription {
                            name: name.clone(),
                            ty: ty.to_string(),
                        })
                        .collect(),
                    result: operation.result.as_ref().map(Type::to_string),
                    documentation: operation.documentation.clone(),
                })
                .collect(),
            types: types
                .iter()
                .map(|named| TypeDescription {
                    name: named.name.clone(),
                    definition: definition(named),
                    documentation: named.documentation.clone(),
                })
                .collect(),
        }
    }
}

/// Puts the named types in `ty` that are not in `types` behind them, each after what it is made of. Types
/// share what they are made of, so without the look into `types` this could take exponential time.
fn collect<'a>(ty: &'a Type, types: &mut Vec<&'a Named>) {
    match ty {
        Type::List(item) | Type::Option(item) => collect(item, types),
        Type::Tuple(items) => items.iter().for_each(|item| collect(item, types)),
        Type::Result(sides) => {
            let sides = [&sides.0, &sides.1];
            sides
                .into_iter()
                .flatten()
                .for_each(|side| collect(side, types));
        }
        Type::Named(named) => {
            if types.iter().any(|known| ptr::eq(*known, &**named)) {
                return;
            }
            match &named.definition {
                Definition::Record(fields) => {
                    fields.iter().for_each(|(_, ty)| collect(ty, types));
                }
                Definition::Variant(cases) => {
                    let carried = cases.iter().filter_map(|(_, ty)| ty.as_ref());
                    carried.for_each(|ty| collect(ty, types));
                }
                Definition::Alias(ty) => collect(ty, types),
                Definition::Enum(_) | Definition::Flags(_) => {}
            }
            types.push(named);
        }
        _ => {}
    }
}

fn definition(named: &Named) -> String {
    let name = &named.name;
    match &named.definition {
        Definition::Record(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(field, ty)| format!("{field}: {ty}"))
                .collect();
            format!("record {name} {{ {} }}", fields.join(", "))
        }
        Definition::Variant(cases) => {
            let cases: Vec<String> = cases
                .iter()
                .map(|(case, ty)| match ty {
                    Some(ty) => format!("{case}({ty})"),
                    None => case.clone(),
                })
                .collect();
            format!("variant {name} {{ {} }}", cases.join(", "))
        }
        Definition::Enum(cases) => format!("enum {name} {{ {} }}", cases.join(", ")),
        Definition::Flags(flags) => format!("flags {name} {{ {} }}", flags.join(", ")),
        Definition::Alias(ty) => format!("type {name} = {ty}"),
    }
}

/// As in WIT; a named type by its name.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Bool => "bool",
            Type::S8 => "s8",
            Type::U8 => "u8",
            Type::S16 => "s16",
            Type::U16 => "u16",
            Type::S32 => "s32",
            Type::U32 => "u32",
            Type::S64 => "s64",
            Type::U64 => "u64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            Type::Bytes => "list<u8>",
            Type::List(item) => return write!(f, "list<{item}>"),
            Type::Option(item) => return write!(f, "option<{item}>"),
            Type::Tuple(items) => {
                f.write_str("tuple<")?;
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                return f.write_str(">");
            }
            Type::Result(sides) => {
                return match &**sides {
                    (None, None) => f.write_str("result"),
                    (Some(ok), None) => write!(f, "result<{ok}>"),
                    (None, Some(err)) => write!(f, "result<_, {err}>"),
                    (Some(ok), Some(err)) => write!(f, "result<{ok}, {err}>"),
                };
            }
            Type::Named(named) => &named.name,
        })
    }
}
