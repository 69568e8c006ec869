//! From a component's own type to an [`Interface`].

use std::collections::HashMap;
use std::sync::Arc;

use wit_component::DecodedWasm;
use wit_parser::{
    self as wit, FunctionKind, InterfaceId, Resolve, TypeDefKind, TypeId, WorldId, WorldItem,
};

use super::documentation::Documentation;
use super::imports::{check_functions, check_imports, our_interface};
use super::{Definition, Interface, Named, Operation, Type};
use crate::check::UploadError;
use crate::limits::UploadLimits;

/// A component's type as WIT. The caller has bounded what this recurses over.
pub(crate) fn decode(component: &[u8]) -> Result<(Resolve, WorldId), UploadError> {
    match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => Ok((resolve, world)),
        Ok(DecodedWasm::WitPackage(..)) => Err(UploadError::OnlyAnInterface),
        Err(error) => Err(UploadError::Malformed(format!("{error:#}"))),
    }
}

/// The interface of a component whose type is `world`, with the documentation in `text`.
pub(crate) fn read(
    resolve: &Resolve,
    world: WorldId,
    text: Option<&str>,
    limits: &UploadLimits,
) -> Result<Interface, UploadError> {
    check_imports(resolve, world)?;
    let documentation = text.map(Documentation::of).unwrap_or_default();
    let mut types = Types::new(resolve, limits, documentation);
    let mut interface = Interface {
        operations: Vec::new(),
        guard: None,
        standing: None,
        version: None,
        documentation: None,
    };
    let mut overviews = Vec::new();
    for (key, item) in &resolve.worlds[world].exports {
        match item {
            WorldItem::Interface { id, .. } => {
                let name = resolve.name_world_key(key);
                if let Some(ours) = our_interface(resolve, *id)? {
                    check_functions(resolve, *id, ours)?;
                    match ours {
                        "guard" => interface.guard = Some(name),
                        "standing" => interface.standing = Some(name),
                        _ => {}
                    }
                    continue;
                }
                if interface.version.is_none() {
                    interface.version = version_of(resolve, *id);
                }
                overviews.extend(types.documentation.of_interface(&name));
                for function in resolve.interfaces[*id].functions.values() {
                    let operation = types.operation(Some(&name), function)?;
                    interface.operations.push(operation);
                }
            }
            WorldItem::Function(function) => {
                interface.operations.push(types.operation(None, function)?);
            }
            WorldItem::Type { .. } => {}
        }
    }
    let runs = interface.guard.is_some() || interface.standing.is_some();
    if interface.operations.is_empty() && !runs {
        return Err(UploadError::NoOperation);
    }
    if interface.operations.len() > limits.operations {
        return Err(UploadError::exceeds(
            "operations",
            interface.operations.len(),
            limits.operations,
        ));
    }
    let names = interface.operations.iter().flat_map(|operation| {
        let parameters = operation.parameters.iter().map(|(name, _)| name);
        let interface = operation.interface.iter();
        parameters.chain(interface).chain([&operation.name])
    });
    let longest = names.map(String::len).max().unwrap_or(0);
    if longest > limits.name_bytes {
        return Err(UploadError::exceeds(
            "name-bytes",
            longest,
            limits.name_bytes,
        ));
    }
    if !overviews.is_empty() {
        interface.documentation = Some(overviews.join("\n\n"));
    }
    Ok(interface)
}

/// Of the package that an interface stands in.
fn version_of(resolve: &Resolve, id: InterfaceId) -> Option<String> {
    let package = resolve.interfaces[id].package?;
    let version = resolve.packages[package].name.version.as_ref()?;
    Some(version.to_string())
}

/// Converts types, each definition once, so that types which share others stay small.
pub(crate) struct Types<'a> {
    resolve: &'a Resolve,
    known: HashMap<TypeId, (Type, Measure)>,
    /// Nodes of all parameters and results so far, shared ones counted each time.
    nodes: usize,
    limits: &'a UploadLimits,
    documentation: Documentation,
}

/// How large a type is when it is written out.
#[derive(Clone, Copy)]
struct Measure {
    nodes: usize,
    depth: usize,
}

impl Measure {
    const LEAF: Measure = Measure { nodes: 1, depth: 1 };

    fn around(inner: impl Iterator<Item = Measure>) -> Measure {
        inner.fold(Measure::LEAF, |sum, one| Measure {
            nodes: sum.nodes.saturating_add(one.nodes),
            depth: sum.depth.max(one.depth.saturating_add(1)),
        })
    }
}

impl<'a> Types<'a> {
    pub(crate) fn new(
        resolve: &'a Resolve,
        limits: &'a UploadLimits,
        documentation: Documentation,
    ) -> Types<'a> {
        Types {
            resolve,
            known: HashMap::new(),
            nodes: 0,
            limits,
            documentation,
        }
    }

    pub(crate) fn operation(
        &mut self,
        interface: Option<&str>,
        function: &wit::Function,
    ) -> Result<Operation, UploadError> {
        let refuse = |what| {
            Err(UploadError::UnsupportedType {
                operation: function.name.clone(),
                what,
            })
        };
        match function.kind {
            FunctionKind::Freestanding => {}
            FunctionKind::AsyncFreestanding => return refuse("is async: a run waits by call.park"),
            _ => return refuse("belongs to a resource, and none outlives a run"),
        }
        let mut parameters = Vec::with_capacity(function.params.len());
        for parameter in &function.params {
            let ty = self.bounded(&function.name, &parameter.ty)?;
            parameters.push((parameter.name.clone(), ty));
        }
        let result = match &function.result {
            Some(result) => Some(self.bounded(&function.name, result)?),
            None => None,
        };
        Ok(Operation {
            interface: interface.map(str::to_owned),
            name: function.name.clone(),
            parameters,
            result,
            documentation: self.documentation.of_function(interface, &function.name),
        })
    }

    fn bounded(&mut self, operation: &str, ty: &wit::Type) -> Result<Type, UploadError> {
        let (ty, measure) = self.convert(operation, ty)?;
        if measure.depth > self.limits.type_depth {
            return Err(UploadError::exceeds(
                "type-depth",
                measure.depth,
                self.limits.type_depth,
            ));
        }
        self.nodes = self.nodes.saturating_add(measure.nodes);
        if self.nodes > self.limits.type_nodes {
            return Err(UploadError::exceeds(
                "type-nodes",
                self.nodes,
                self.limits.type_nodes,
            ));
        }
        Ok(ty)
    }

    fn convert(&mut self, operation: &str, ty: &wit::Type) -> Result<(Type, Measure), UploadError> {
        let leaf = match ty {
            wit::Type::Bool => Type::Bool,
            wit::Type::U8 => Type::U8,
            wit::Type::U16 => Type::U16,
            wit::Type::U32 => Type::U32,
            wit::Type::U64 => Type::U64,
            wit::Type::S8 => Type::S8,
            wit::Type::S16 => Type::S16,
            wit::Type::S32 => Type::S32,
            wit::Type::S64 => Type::S64,
            wit::Type::F32 => Type::F32,
            wit::Type::F64 => Type::F64,
            wit::Type::Char => Type::Char,
            wit::Type::String => Type::String,
            wit::Type::ErrorContext => {
                return Err(unsupported(operation, "has an error-context in its type"));
            }
            wit::Type::Id(id) => {
                if let Some(known) = self.known.get(id) {
                    return Ok(known.clone());
                }
                let converted = self.definition(operation, *id)?;
                self.known.insert(*id, converted.clone());
                return Ok(converted);
            }
        };
        Ok((leaf, Measure::LEAF))
    }

    fn definition(&mut self, operation: &str, id: TypeId) -> Result<(Type, Measure), UploadError> {
        let resolve = self.resolve;
        let definition = &resolve.types[id];
        let (definition_of_named, measure) = match &definition.kind {
            TypeDefKind::Record(record) => {
                let mut fields = Vec::with_capacity(record.fields.len());
                let mut measures = Vec::new();
                for field in &record.fields {
                    let (ty, measure) = self.convert(operation, &field.ty)?;
                    fields.push((field.name.clone(), ty));
                    measures.push(measure);
                }
                let measure = Measure::around(measures.into_iter());
                (Definition::Record(fields), measure)
            }
            TypeDefKind::Variant(variant) => {
                let mut cases = Vec::with_capacity(variant.cases.len());
                let mut measures = Vec::new();
                for case in &variant.cases {
                    let ty = self.optional(operation, case.ty.as_ref(), &mut measures)?;
                    cases.push((case.name.clone(), ty));
                }
                let nodes = cases.len();
                let mut measure = Measure::around(measures.into_iter());
                measure.nodes = measure.nodes.saturating_add(nodes);
                (Definition::Variant(cases), measure)
            }
            TypeDefKind::Enum(cases) => {
                let cases: Vec<_> = cases.cases.iter().map(|case| case.name.clone()).collect();
                let measure = Measure {
                    nodes: cases.len(),
                    depth: 1,
                };
                (Definition::Enum(cases), measure)
            }
            TypeDefKind::Flags(flags) => {
                let flags: Vec<_> = flags.flags.iter().map(|flag| flag.name.clone()).collect();
                let measure = Measure {
                    nodes: flags.len(),
                    depth: 1,
                };
                (Definition::Flags(flags), measure)
            }
            TypeDefKind::Type(target) => {
                let (ty, measure) = self.convert(operation, target)?;
                // A type of another interface that goes by its own name there needs no second one.
                let is_same_name = matches!(&ty, Type::Named(named) if Some(&named.name) == definition.name.as_ref());
                if definition.name.is_none() || is_same_name {
                    return Ok((ty, measure));
                }
                (
                    Definition::Alias(ty),
                    Measure::around(std::iter::once(measure)),
                )
            }
            kind => {
                let (ty, measure) = self.anonymous(operation, kind)?;
                if definition.name.is_none() {
                    return Ok((ty, measure));
                }
                (
                    Definition::Alias(ty),
                    Measure::around(std::iter::once(measure)),
                )
            }
        };
        let name = definition.name.clone().unwrap_or_else(|| "unnamed".into());
        let interface = match definition.owner {
            wit::TypeOwner::Interface(id) => resolve.id_of(id),
            _ => None,
        };
        let documentation = self.documentation.of_type(interface.as_deref(), &name);
        let named = Named {
            name,
            documentation,
            definition: definition_of_named,
        };
        Ok((Type::Named(Arc::new(named)), measure))
    }

    fn anonymous(
        &mut self,
        operation: &str,
        kind: &TypeDefKind,
    ) -> Result<(Type, Measure), UploadError> {
        let mut measures = Vec::new();
        let ty = match kind {
            TypeDefKind::List(wit::Type::U8) => Type::Bytes,
            TypeDefKind::List(item) => {
                Type::List(Arc::new(self.measured(operation, item, &mut measures)?))
            }
            TypeDefKind::Option(item) => {
                Type::Option(Arc::new(self.measured(operation, item, &mut measures)?))
            }
            TypeDefKind::Tuple(tuple) => {
                let mut items = Vec::with_capacity(tuple.types.len());
                for item in &tuple.types {
                    items.push(self.measured(operation, item, &mut measures)?);
                }
                Type::Tuple(items.into())
            }
            TypeDefKind::Result(result) => {
                let ok = self.optional(operation, result.ok.as_ref(), &mut measures)?;
                let err = self.optional(operation, result.err.as_ref(), &mut measures)?;
                Type::Result(Arc::new((ok, err)))
            }
            TypeDefKind::Resource | TypeDefKind::Handle(_) => {
                let what = "has a resource in its type, and none outlives a run";
                return Err(unsupported(operation, what));
            }
            TypeDefKind::Stream(_) => {
                let what = "has a stream in its type, and none outlives a run";
                return Err(unsupported(operation, what));
            }
            TypeDefKind::Future(_) => {
                let what = "has a future in its type: a run waits by call.park";
                return Err(unsupported(operation, what));
            }
            TypeDefKind::Map(..) => {
                let what = "has a map in its type, which is not yet stable in WIT: \
                            use a list of tuples";
                return Err(unsupported(operation, what));
            }
            TypeDefKind::FixedLengthList(..) => {
                let what = "has a list of fixed length in its type, which is not yet stable in \
                            WIT: use a list or a tuple";
                return Err(unsupported(operation, what));
            }
            _ => return Err(unsupported(operation, "has a type of an unknown kind")),
        };
        Ok((ty, Measure::around(measures.into_iter())))
    }

    fn measured(
        &mut self,
        operation: &str,
        ty: &wit::Type,
        measures: &mut Vec<Measure>,
    ) -> Result<Type, UploadError> {
        let (ty, measure) = self.convert(operation, ty)?;
        measures.push(measure);
        Ok(ty)
    }

    fn optional(
        &mut self,
        operation: &str,
        ty: Option<&wit::Type>,
        measures: &mut Vec<Measure>,
    ) -> Result<Option<Type>, UploadError> {
        ty.map(|ty| self.measured(operation, ty, measures))
            .transpose()
    }
}

fn unsupported(operation: &str, what: &'static str) -> UploadError {
    UploadError::UnsupportedType {
        operation: operation.to_owned(),
        what,
    }
}
