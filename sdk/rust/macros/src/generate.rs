//! WIT text to the bindings that wit-bindgen writes for it.

use proc_macro2::TokenStream;
use wit_bindgen_core::wit_parser::{Resolve, WorldId, WorldItem, WorldKey};
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::{Opts, WithOption};

/// The recipe ABI, which the author's text may `use` from without having it.
const ABI: &str = include_str!("../../../../wit/recipe.wit");
const ABI_PACKAGE: &str = "quorate:recipe/";

/// Bindings to the ABI's imports, for quorate-recipe itself.
pub(crate) fn abi() -> Result<TokenStream, String> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("recipe.wit", ABI).map_err(chain)?;
    let world = resolve
        .select_world(&[package], Some("imports"))
        .map_err(chain)?;
    let options = Opts {
        runtime_path: Some("::wit_bindgen::rt".into()),
        ..options()
    };
    let text = bindings(options, &mut resolve, world)?;
    text.parse().map_err(|error| format!("{error}"))
}

/// Bindings to what the recipe in `text` exports, as a file of Rust.
pub(crate) fn recipe(text: &str) -> Result<syn::File, String> {
    let mut resolve = Resolve::default();
    resolve.push_str("quorate:recipe", ABI).map_err(chain)?;
    let package = resolve.push_str("the recipe's WIT", text).map_err(chain)?;
    let world = resolve.select_world(&[package], None).map_err(|error| {
        format!(
            "{}\na recipe has one world, such as\n    world recipe {{ export lock; }}",
            chain(error)
        )
    })?;
    let options = Opts {
        runtime_path: Some("::quorate_recipe::bindings::runtime".into()),
        default_bindings_module: Some("bindings".into()),
        with: remappings(&resolve, world)?,
        // Types of the author's own that an exported interface uses come as imports of types alone.
        generate_all: true,
        ..options()
    };
    let text = bindings(options, &mut resolve, world)?;
    syn::parse_file(&text).map_err(|error| format!("the generated bindings: {error}"))
}

/// The ABI's interfaces are bound once, in quorate-recipe. Any other function to import is refused here
/// already, since the server would refuse it.
fn remappings(resolve: &Resolve, world: WorldId) -> Result<Vec<(String, WithOption)>, String> {
    let mut remappings = Vec::new();
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id, .. } = item else {
            continue;
        };
        let WorldKey::Interface(_) = key else {
            continue;
        };
        let Some(name) = resolve.id_of(*id) else {
            continue;
        };
        let interface = &resolve.interfaces[*id];
        if let Some(rest) = name.strip_prefix(ABI_PACKAGE) {
            let module = rest.split('@').next().unwrap_or(rest);
            let path = format!("::quorate_recipe::bindings::quorate::recipe::{module}");
            remappings.push((name, WithOption::Path(path)));
        } else if !interface.functions.is_empty() {
            return Err(format!(
                "the recipe imports {name}: a recipe imports nothing but quorate:recipe, which the \
                 SDK brings"
            ));
        }
    }
    Ok(remappings)
}

fn options() -> Opts {
    Opts {
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Opts::default()
    }
}

fn bindings(options: Opts, resolve: &mut Resolve, world: WorldId) -> Result<String, String> {
    let mut files = Files::default();
    options
        .build()
        .generate(resolve, world, &mut files)
        .map_err(chain)?;
    let (_, contents) = files.iter().next().ok_or("wit-bindgen wrote no file")?;
    Ok(String::from_utf8_lossy(contents).into_owned())
}

/// All of an error, causes included: the last of them says where in the text.
fn chain(error: impl Into<Box<dyn std::error::Error>>) -> String {
    let error = error.into();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!("\n{cause}"));
        source = cause.source();
    }
    text
}
