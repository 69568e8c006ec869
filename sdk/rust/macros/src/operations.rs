//! The generated bindings' traits, implemented by calls to the author's plain functions.

use std::collections::BTreeMap;

use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};
use syn::{AttrStyle, Attribute, FnArg, Ident, Item, ItemTrait, Pat, TraitItem, Visibility};

/// One `trait Guest` in the bindings: an exported interface, or the world's own functions.
struct Exported {
    /// The modules from the bindings' root down to the trait; none for the world's own functions.
    modules: Vec<Ident>,
    operations: Vec<Ident>,
}

/// Puts the generated file into `mod bindings`, with each operation calling the function of its name
/// beside the macro, and `text` into the custom section where the server looks for documentation.
pub(crate) fn connect(file: &syn::File, text: &str) -> Result<TokenStream, String> {
    let mut exported = Vec::new();
    collect(&file.items, &mut Vec::new(), &mut exported);
    if exported
        .iter()
        .all(|interface| interface.operations.is_empty())
    {
        return Err(
            "the world exports no function, so the recipe has no operation; export an \
             interface: world recipe { export lock; }"
                .into(),
        );
    }
    let mut uses = BTreeMap::<String, usize>::new();
    for operation in exported.iter().flat_map(|one| &one.operations) {
        *uses.entry(operation.to_string()).or_default() += 1;
    }
    let bindings = implement(&file.items, &mut Vec::new(), &uses)?;
    let imports = types(file, &exported);
    let section = Literal::byte_string(text.as_bytes());
    let length = text.len();
    let reason = quote!(reason = "generated");
    Ok(quote! {
        #[allow(
            warnings, clippy::all, clippy::restriction, clippy::pedantic, unsafe_code, missing_docs,
            unreachable_pub, #reason
        )]
        mod bindings {
            #(#bindings)*

            /// Implements every exported interface.
            pub struct Recipe;

            #[cfg(target_family = "wasm")]
            const _: () = {
                export!(Recipe with_types_in self);

                #[used]
                #[unsafe(link_section = "quorate:wit")]
                static WIT: [u8; #length] = *#section;
            };
        }
        #imports
    })
}

fn collect(items: &[Item], modules: &mut Vec<Ident>, exported: &mut Vec<Exported>) {
    for item in items {
        match item {
            Item::Trait(guest) if guest.ident == "Guest" => exported.push(Exported {
                modules: modules.clone(),
                operations: guest
                    .items
                    .iter()
                    .filter_map(|item| match item {
                        TraitItem::Fn(function) => Some(function.sig.ident.clone()),
                        _ => None,
                    })
                    .collect(),
            }),
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    modules.push(module.ident.clone());
                    collect(items, modules, exported);
                    modules.pop();
                }
            }
            _ => {}
        }
    }
}

/// The same items, with an implementation behind each `trait Guest`. It stands there, and not beside the
/// macro, because there the trait's signatures can be repeated word for word.
fn implement(
    items: &[Item],
    modules: &mut Vec<Ident>,
    uses: &BTreeMap<String, usize>,
) -> Result<Vec<TokenStream>, String> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Mod(module) if module.content.is_some() => {
                let is_inner =
                    |attribute: &&Attribute| matches!(attribute.style, AttrStyle::Inner(_));
                let inner = module.attrs.iter().filter(is_inner);
                let outer = module.attrs.iter().filter(|one| !is_inner(one));
                let (visibility, name) = (&module.vis, &module.ident);
                modules.push(name.clone());
                let content = match &module.content {
                    Some((_, items)) => implement(items, modules, uses)?,
                    None => Vec::new(),
                };
                modules.pop();
                out.push(quote! {
                    #(#outer)* #visibility mod #name { #(#inner)* #(#content)* }
                });
            }
            Item::Trait(guest) if guest.ident == "Guest" => {
                let implementation = implementation(guest, modules, uses)?;
                out.push(quote!(#guest #implementation));
            }
            _ => out.push(quote!(#item)),
        }
    }
    Ok(out)
}

fn implementation(
    guest: &ItemTrait,
    modules: &[Ident],
    uses: &BTreeMap<String, usize>,
) -> Result<TokenStream, String> {
    let to_bindings = vec![quote!(super); modules.len()];
    let mut functions = Vec::new();
    for item in &guest.items {
        let TraitItem::Fn(function) = item else {
            return Err("a recipe's interfaces have functions only: no resources".into());
        };
        let signature = &function.sig;
        if signature.asyncness.is_some() {
            return Err(format!(
                "{} is async: an operation waits by call::park, not by async",
                signature.ident
            ));
        }
        let mut arguments = Vec::new();
        for input in &signature.inputs {
            match input {
                FnArg::Typed(typed) => match &*typed.pat {
                    Pat::Ident(pattern) => arguments.push(pattern.ident.clone()),
                    _ => return Err("the bindings have an unnamed parameter".into()),
                },
                FnArg::Receiver(_) => return Err("a recipe has no resources".into()),
            }
        }
        let ambiguous = uses.get(&signature.ident.to_string()) > Some(&1);
        let name = match modules.last() {
            Some(interface) if ambiguous => format_ident!("{}_{}", interface, signature.ident),
            _ => signature.ident.clone(),
        };
        functions.push(quote! {
            #signature {
                ::quorate_recipe::begin();
                #(#to_bindings::)* super::#name(#(#arguments),*)
            }
        });
    }
    Ok(quote! {
        impl Guest for #(#to_bindings::)* Recipe { #(#functions)* }
    })
}

/// Brings the exported interfaces' types into the author's scope, but for names that two of them have.
fn types(file: &syn::File, exported: &[Exported]) -> TokenStream {
    let mut found = BTreeMap::<String, Vec<(Vec<Ident>, Ident)>>::new();
    for interface in exported {
        let mut items = &file.items;
        for name in &interface.modules {
            let inner = items.iter().find_map(|item| match item {
                Item::Mod(module) if module.ident == *name => module.content.as_ref(),
                _ => None,
            });
            if let Some((_, content)) = inner {
                items = content;
            }
        }
        for item in items {
            if let Some(name) = public_type(item) {
                found
                    .entry(name.to_string())
                    .or_default()
                    .push((interface.modules.clone(), name));
            }
        }
    }
    let imports = found.values().filter_map(|places| match &places[..] {
        [(modules, name)] => Some(quote!(#(#modules::)* #name)),
        _ => None,
    });
    quote! {
        #[allow(unused_imports, reason = "generated")]
        use bindings::{#(#imports),*};
    }
}

/// The name of the public type that `item` declares.
fn public_type(item: &Item) -> Option<Ident> {
    let (visibility, name) = match item {
        Item::Struct(item) => (&item.vis, &item.ident),
        Item::Enum(item) => (&item.vis, &item.ident),
        Item::Type(item) => (&item.vis, &item.ident),
        // Flags: `bitflags! { … pub struct Name: u8 { … } }`.
        Item::Macro(item) if item.mac.path.segments.last()?.ident == "bitflags" => {
            let mut tokens = item.mac.tokens.clone().into_iter();
            tokens.find(|token| token.to_string() == "struct")?;
            return syn::parse2(tokens.next()?.into()).ok();
        }
        _ => return None,
    };
    matches!(visibility, Visibility::Public(_)).then(|| name.clone())
}
