//! From an upload to a checked component. Nothing is compiled here: the messages come at once, and what
//! costs much to compile is refused before it is.

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::recipe::RecipeDigest;
use thiserror::Error;
use wasmparser::{
    ComponentType, ComponentTypeDeclaration, Encoding, InstanceTypeDeclaration, Parser, Payload,
};

use crate::interface::{self, Interface};
use crate::limits::UploadLimits;

/// Where the SDK puts the WIT text, in the component or in a module in it.
const WIT_SECTION: &str = "quorate:wit";
/// Where language tools put a core module's interface.
const INTERFACE_SECTION: &str = "component-type";
/// The stack for what recurses over an upload's types and WIT text. `UploadLimits::type_bytes` and
/// `UploadLimits::wit_bytes` bound the recursion; the memory is taken only as far as it is used.
const CHECK_STACK_BYTES: usize = 256 << 20;

/// An upload that may be kept.
#[derive(Clone, Debug)]
pub struct PreparedRecipe {
    /// Of `component`.
    pub digest: RecipeDigest,
    /// What is to be kept: of a core module, the component made of it.
    pub component: Bytes,
    /// What it exports.
    pub interface: Arc<Interface>,
}

/// Why an upload is refused. The messages tell its author what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say what each is")]
pub enum UploadError {
    #[error(
        "this is not WebAssembly: a recipe is a .wasm file, as `cargo build --release --target \
         wasm32-unknown-unknown` makes of a Rust recipe"
    )]
    NotWebAssembly,
    #[error("this is WebAssembly's text form: make the binary of it, with `wasm-tools parse`, say")]
    TextForm,
    #[error(
        "this core module does not say what it exports: write the recipe with an SDK (for Rust, the \
         crate quorate-recipe), or add the WIT with `wasm-tools component embed`"
    )]
    NoInterface,
    #[error("this is a WIT package without code: upload the component that implements it")]
    OnlyAnInterface,
    #[error("the WebAssembly is malformed: {0}")]
    Malformed(String),
    #[error("no component can be made of this core module: {0}")]
    Componentize(String),
    #[error("the recipe imports {0}, but a recipe imports nothing but quorate:recipe{advice}", advice = advice(.0))]
    ForeignImport(String),
    #[error(
        "the recipe is built for quorate:recipe {found}, and this server has {ours}: build it with an \
         SDK of that version"
    )]
    AbiVersion { found: String, ours: &'static str },
    #[error(
        "the recipe is built for a later quorate:recipe: this server has {ours}, which lacks {what}; \
         build it with an SDK of that version, or upgrade the server"
    )]
    UnknownToAbi { what: String, ours: &'static str },
    #[error(
        "{function} has another type in the recipe than in quorate:recipe {ours}: build it with an \
         unchanged recipe.wit of that version"
    )]
    AbiMismatch {
        function: String,
        ours: &'static str,
    },
    #[error(
        "the recipe has no operation: export an interface with a function from its world, such as \
         `world recipe {{ export lock; }}`"
    )]
    NoOperation,
    #[error("the operation {operation} {what}")]
    UnsupportedType {
        operation: String,
        what: &'static str,
    },
    #[error(
        "the upload exceeds the bound {bound}: it has {found}, and {limit} is the most{remedy}",
        remedy = remedy(.bound)
    )]
    TooLarge {
        bound: &'static str,
        found: usize,
        limit: usize,
    },
}

impl UploadError {
    pub(crate) fn exceeds(bound: &'static str, found: usize, limit: usize) -> UploadError {
        UploadError::TooLarge {
            bound,
            found,
            limit,
        }
    }

    /// The bound that it exceeds, by its name.
    pub fn bound(&self) -> Option<&'static str> {
        match self {
            UploadError::TooLarge { bound, .. } => Some(bound),
            _ => None,
        }
    }
}

/// What an author can do about it.
fn remedy(bound: &str) -> &'static str {
    match bound {
        "bytes" | "code-bytes" | "functions" => {
            ": build it for size (in Rust, opt-level = \"s\", lto and strip), or leave parts out"
        }
        "segments" => {
            ": the engine walks every segment at each run, so fold them into few, as `wasm-opt \
             --memory-packing` does, or a tool that keeps the memory of a runtime that has started"
        }
        "function-bytes" => {
            ": split that function, or forbid the compiler to inline so much into it"
        }
        "modules" | "memories" | "tables" | "globals" | "types" | "imports" | "exports" => {
            ": link its modules into one, and export what is called from outside only"
        }
        "nesting" | "type-nesting" | "type-depth" => ": make it flatter",
        "operations" | "name-bytes" | "type-bytes" | "type-nodes" | "wit-bytes" => {
            ": make the interface smaller, or two recipes of it"
        }
        _ => "",
    }
}

fn advice(import: &str) -> &'static str {
    if import.starts_with("wasi") {
        ": it has no clock, files, environment or network but what quorate:recipe gives. In Rust, build \
         for wasm32-unknown-unknown, not for a wasm32-wasi target; other languages' tools have an \
         option to leave WASI out, such as --stub-wasi"
    } else if import.starts_with("env ") {
        ": a function is declared but not linked in"
    } else {
        ""
    }
}

/// Checks an upload, and makes the component if it is a core module. Takes milliseconds for each MiB.
pub fn prepare(upload: &[u8], limits: &UploadLimits) -> Result<PreparedRecipe, UploadError> {
    if upload.len() > limits.bytes {
        return Err(UploadError::exceeds("bytes", upload.len(), limits.bytes));
    }
    let counts = Contents::of(upload, limits)?;
    let component = match counts.encoding {
        Encoding::Component => Bytes::copy_from_slice(upload),
        Encoding::Module => {
            if !counts.has_interface {
                return Err(UploadError::NoInterface);
            }
            if let Some(import) = counts.foreign_import {
                return Err(UploadError::ForeignImport(import));
            }
            let component = on_large_stack(|| componentize(upload))?;
            if component.len() > limits.bytes {
                return Err(UploadError::exceeds("bytes", component.len(), limits.bytes));
            }
            component.into()
        }
    };
    let interface = interface_of(&component, limits)?;
    Ok(PreparedRecipe {
        digest: RecipeDigest::of(&component),
        component,
        interface: Arc::new(interface),
    })
}

/// The interface of a checked component.
pub fn interface_of(component: &[u8], limits: &UploadLimits) -> Result<Interface, UploadError> {
    let contents = Contents::of(component, limits)?;
    on_large_stack(|| {
        hold_nesting(component, limits)?;
        let (resolve, world) = interface::decode(component)?;
        interface::read(&resolve, world, contents.wit_text, limits)
    })
}

fn componentize(module: &[u8]) -> Result<Vec<u8>, UploadError> {
    wit_component::ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| UploadError::Componentize(format!("{error:#}")))
}

/// What the sections' headers tell.
struct Contents<'a> {
    encoding: Encoding,
    has_interface: bool,
    wit_text: Option<&'a str>,
    /// Of a core module: the first import that no component can give.
    foreign_import: Option<String>,
}

impl<'a> Contents<'a> {
    /// Counts without recursion, and holds the counts against the limits.
    fn of(bytes: &'a [u8], limits: &UploadLimits) -> Result<Contents<'a>, UploadError> {
        if !bytes.starts_with(b"\0asm") {
            let text = bytes.trim_ascii_start();
            let is_text = text.starts_with(b"(module") || text.starts_with(b"(component");
            return Err(match is_text {
                true => UploadError::TextForm,
                false => UploadError::NotWebAssembly,
            });
        }
        let encoding = match Parser::is_component(bytes) {
            true => Encoding::Component,
            false => Encoding::Module,
        };
        let mut contents = Contents {
            encoding,
            has_interface: false,
            wit_text: None,
            foreign_import: None,
        };
        let mut counts = Counts::default();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| UploadError::Malformed(error.to_string()))?;
            counts.add(&payload);
            counts.hold(limits)?;
            contents.look(&payload, limits)?;
        }
        Ok(contents)
    }

    fn look(&mut self, payload: &Payload<'a>, limits: &UploadLimits) -> Result<(), UploadError> {
        match payload {
            Payload::CustomSection(section) if section.name() == WIT_SECTION => {
                let text = section.data();
                if text.len() > limits.wit_bytes {
                    return Err(UploadError::exceeds(
                        "wit-bytes",
                        text.len(),
                        limits.wit_bytes,
                    ));
                }
                self.wit_text = self.wit_text.or(std::str::from_utf8(text).ok());
            }
            Payload::CustomSection(section) => {
                self.has_interface |= section.name().starts_with(INTERFACE_SECTION);
            }
            Payload::ImportSection(imports) if self.encoding == Encoding::Module => {
                for import in imports.clone().into_imports() {
                    let import =
                        import.map_err(|error| UploadError::Malformed(error.to_string()))?;
                    // A component's imports are interfaces, `package:name/interface`; these are what
                    // compilers name otherwise.
                    if import.module.starts_with("wasi_") || import.module == "env" {
                        let name = format!("{} {}", import.module, import.name);
                        self.foreign_import.get_or_insert(name);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    modules: usize,
    functions: usize,
    segments: usize,
    memories: usize,
    tables: usize,
    globals: usize,
    types: usize,
    imports: usize,
    exports: usize,
    type_bytes: usize,
    code_bytes: usize,
    /// Of the largest.
    function_bytes: usize,
    /// Modules and components that have begun and not ended.
    open: usize,
    /// The most that there were at once, within the outermost.
    nesting: usize,
}

impl Counts {
    fn add(&mut self, payload: &Payload<'_>) {
        match payload {
            Payload::Version { .. } => {
                self.open += 1;
                self.nesting = self.nesting.max(self.open - 1);
            }
            Payload::End(_) => self.open = self.open.saturating_sub(1),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => self.modules += 1,
            Payload::CodeSectionStart { size, .. } => self.code_bytes += *size as usize,
            Payload::CodeSectionEntry(body) => {
                self.function_bytes = self.function_bytes.max(body.range().len());
            }
            Payload::GlobalSection(section) => self.globals += section.count() as usize,
            Payload::TypeSection(section) => self.types += section.count() as usize,
            Payload::ImportSection(section) => self.imports += section.count() as usize,
            Payload::ExportSection(section) => self.exports += section.count() as usize,
            Payload::ComponentExportSection(section) => self.exports += section.count() as usize,
            Payload::InstanceSection(section) => self.modules += section.count() as usize,
            Payload::ComponentInstanceSection(section) => self.modules += section.count() as usize,
            Payload::FunctionSection(section) => self.functions += section.count() as usize,
            Payload::DataSection(section) => self.segments += section.count() as usize,
            Payload::ElementSection(section) => self.segments += section.count() as usize,
            Payload::MemorySection(section) => self.memories += section.count() as usize,
            Payload::TableSection(section) => self.tables += section.count() as usize,
            Payload::ComponentTypeSection(section) => self.type_bytes += section.range().len(),
            Payload::CoreTypeSection(section) => self.type_bytes += section.range().len(),
            Payload::CustomSection(section) if section.name().starts_with(INTERFACE_SECTION) => {
                self.type_bytes += section.data().len();
            }
            _ => {}
        }
    }

    fn hold(&self, limits: &UploadLimits) -> Result<(), UploadError> {
        let bounds = [
            ("modules", self.modules, limits.modules),
            ("functions", self.functions, limits.functions),
            ("segments", self.segments, limits.segments),
            ("memories", self.memories, limits.memories),
            ("tables", self.tables, limits.tables),
            ("globals", self.globals, limits.globals),
            ("types", self.types, limits.types),
            ("imports", self.imports, limits.imports),
            ("exports", self.exports, limits.exports),
            ("code-bytes", self.code_bytes, limits.code_bytes),
            ("function-bytes", self.function_bytes, limits.function_bytes),
            ("nesting", self.nesting, limits.nesting),
            ("type-bytes", self.type_bytes, limits.type_bytes),
        ];
        match bounds.into_iter().find(|(_, found, limit)| found > limit) {
            Some((bound, found, limit)) => Err(UploadError::exceeds(bound, found, limit)),
            None => Ok(()),
        }
    }
}

/// Declarations of types may stand in declarations of types. Whoever reads them recurses, the engine too, and
/// that on an ordinary stack.
fn hold_nesting(component: &[u8], limits: &UploadLimits) -> Result<(), UploadError> {
    let malformed =
        |error: wasmparser::BinaryReaderError| UploadError::Malformed(error.to_string());
    let mut deepest = 0;
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::ComponentTypeSection(section) = payload.map_err(malformed)? {
            for ty in section {
                deepest = deepest.max(nesting(&ty.map_err(malformed)?));
            }
        }
    }
    if deepest > limits.type_nesting {
        return Err(UploadError::exceeds(
            "type-nesting",
            deepest,
            limits.type_nesting,
        ));
    }
    Ok(())
}

fn nesting(ty: &ComponentType<'_>) -> usize {
    let inner = match ty {
        ComponentType::Component(declarations) => declarations
            .iter()
            .map(|declaration| match declaration {
                ComponentTypeDeclaration::Type(ty) => nesting(ty),
                _ => 0,
            })
            .max(),
        ComponentType::Instance(declarations) => declarations
            .iter()
            .map(|declaration| match declaration {
                InstanceTypeDeclaration::Type(ty) => nesting(ty),
                _ => 0,
            })
            .max(),
        _ => None,
    };
    1 + inner.unwrap_or(0)
}

/// Runs `check` where recursion over the upload cannot overflow the caller's stack, and behind a panic barrier.
fn on_large_stack<R: Send>(
    check: impl FnOnce() -> Result<R, UploadError> + Send,
) -> Result<R, UploadError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("recipe-check".into())
            .stack_size(CHECK_STACK_BYTES)
            .spawn_scoped(scope, check)
            .map_err(|error| UploadError::Malformed(format!("it cannot be checked: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(UploadError::Malformed("the check gave up".into())))
    })
}
