//! The standard recipes, built for WebAssembly and embedded, so that a new server can mount them by name
//! without any file.

/// One standard recipe.
#[derive(Clone, Copy, Debug)]
pub struct StandardRecipe {
    /// What it is mounted by, such as `fair-lock`.
    pub name: &'static str,
    /// The core module that cargo made of it, with its interface inside: an upload as an author would make it.
    pub wasm: &'static [u8],
}

/// All of them, by name.
pub fn all() -> &'static [StandardRecipe] {
    ALL
}

/// The one called `name`.
pub fn find(name: &str) -> Option<StandardRecipe> {
    ALL.iter().find(|recipe| recipe.name == name).copied()
}

// `static ALL: &[StandardRecipe]`, which build.rs writes: one for each folder of `recipes`.
include!(concat!(env!("OUT_DIR"), "/table.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_webassembly_and_found_by_its_name() {
        for recipe in all() {
            assert!(recipe.wasm.starts_with(b"\0asm"), "{}", recipe.name);
            assert_eq!(find(recipe.name).unwrap().wasm, recipe.wasm);
        }
        assert!(find("no-such-recipe").is_none());
    }
}
