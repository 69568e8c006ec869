//! What the author wrote about operations and types, from the WIT text that the component carries.

use std::collections::HashMap;

use wit_parser::{self as wit, Resolve, WorldItem, WorldKey};

use super::imports::ABI;

/// Documentation by place. A component's own type has no comments.
#[derive(Default)]
pub(crate) struct Documentation {
    /// By interface, or none for the world itself, and item.
    items: HashMap<(Option<String>, String), String>,
    interfaces: HashMap<String, String>,
}

impl Documentation {
    /// A text that does not parse documents nothing: it is no part of what the recipe does.
    pub(crate) fn of(text: &str) -> Documentation {
        let mut resolve = Resolve::default();
        let parsed = resolve.push_str("quorate:recipe", ABI).is_ok()
            && resolve.push_str("quorate:wit", text).is_ok();
        let mut documentation = Documentation::default();
        if !parsed {
            return documentation;
        }
        for (id, interface) in resolve.interfaces.iter() {
            let Some(name) = resolve.id_of(id) else {
                continue;
            };
            if let Some(text) = &interface.docs.contents {
                documentation
                    .interfaces
                    .insert(name.clone(), text.trim().into());
            }
            for function in interface.functions.values() {
                documentation.put(Some(&name), &function.name, &function.docs);
            }
            for (ty, id) in &interface.types {
                documentation.put(Some(&name), ty, &resolve.types[*id].docs);
            }
        }
        for (_, world) in resolve.worlds.iter() {
            for (key, item) in &world.exports {
                if let (WorldKey::Name(_), WorldItem::Function(function)) = (key, item) {
                    documentation.put(None, &function.name, &function.docs);
                }
            }
        }
        documentation
    }

    fn put(&mut self, interface: Option<&str>, item: &str, docs: &wit::Docs) {
        if let Some(text) = &docs.contents {
            let key = (interface.map(str::to_owned), item.to_owned());
            self.items.insert(key, text.trim().to_owned());
        }
    }

    pub(crate) fn of_function(&self, interface: Option<&str>, name: &str) -> Option<String> {
        let key = (interface.map(str::to_owned), name.to_owned());
        self.items.get(&key).cloned()
    }

    pub(crate) fn of_type(&self, interface: Option<&str>, name: &str) -> Option<String> {
        self.of_function(interface, name)
    }

    pub(crate) fn of_interface(&self, name: &str) -> Option<String> {
        self.interfaces.get(name).cloned()
    }
}
