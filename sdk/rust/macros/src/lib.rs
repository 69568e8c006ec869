//! The `recipe!` macro of quorate-recipe: WIT in, bindings and the glue to plain functions out.

mod generate;
mod operations;

use proc_macro::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::{LitStr, Token};

/// Declares the recipe: its operations are the functions that the WIT text exports, and each is a plain
/// function beside the macro. Documented in full where quorate-recipe re-exports it.
#[proc_macro]
pub fn recipe(input: TokenStream) -> TokenStream {
    let source = syn::parse_macro_input!(input as Source);
    expand(&source)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// The bindings to what every recipe may import. For quorate-recipe alone.
#[doc(hidden)]
#[proc_macro]
pub fn abi(_input: TokenStream) -> TokenStream {
    match generate::abi() {
        Ok(tokens) => tokens.into(),
        Err(message) => syn::Error::new(proc_macro2::Span::call_site(), message)
            .into_compile_error()
            .into(),
    }
}

/// What stands between the macro's parentheses: the text itself, or `file = "wit/recipe.wit"`.
struct Source {
    literal: LitStr,
    is_file: bool,
}

impl Parse for Source {
    fn parse(input: ParseStream<'_>) -> syn::Result<Source> {
        let is_file = input.peek(syn::Ident);
        if is_file {
            let word: syn::Ident = input.parse()?;
            if word != "file" {
                return Err(syn::Error::new(
                    word.span(),
                    "expected the WIT text as a string, or file = \"path/from/Cargo.toml.wit\"",
                ));
            }
            input.parse::<Token![=]>()?;
        }
        let literal = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input.error("nothing may follow"));
        }
        Ok(Source { literal, is_file })
    }
}

fn expand(source: &Source) -> syn::Result<proc_macro2::TokenStream> {
    let fail = |message: String| syn::Error::new(source.literal.span(), message);
    let (text, tracked) = if source.is_file {
        let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        let path = std::path::Path::new(&root).join(source.literal.value());
        let text = std::fs::read_to_string(&path)
            .map_err(|error| fail(format!("cannot read {}: {error}", path.display())))?;
        // So that cargo builds again when the file changes.
        let path = path.display().to_string();
        (
            text,
            quote!(
                const _: &str = include_str!(#path);
            ),
        )
    } else {
        (source.literal.value(), quote!())
    };
    let generated = generate::recipe(&text).map_err(fail)?;
    let expanded = operations::connect(&generated, &text).map_err(fail)?;
    Ok(quote!(#tracked #expanded))
}
