//! `recipe new`: a project that builds, with a recipe, a scenario and properties.
//!
//! The SDK's sources are part of this crate and are written into the project, so it takes no checkout, and
//! the project builds with the SDK of the server that it was made with. A path to a checkout's SDK can be
//! given instead.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The SDK: where each file goes below [`SDK_FOLDER`], and what stands in it.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
const SDK_WORKSPACE: &str = include_str!(concat!(env!("OUT_DIR"), "/workspace.toml"));
const SDK_LOCK: &str = include_str!(concat!(env!("OUT_DIR"), "/Cargo.lock"));
const TOOLCHAIN: &str = include_str!(concat!(env!("OUT_DIR"), "/rust-toolchain.toml"));

/// Where the SDK lies in a project that has it.
const SDK_FOLDER: &str = "quorate";

/// The longest name of a project: the server's bound for a recipe's.
const MAX_NAME_BYTES: usize = 100;

/// Names that cargo, Rust or the project itself has other uses for.
const TAKEN: [&str; 55] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "quorate-recipe",
    "quorate-recipe-macros",
    "recipe",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "test",
    "trait",
    "try",
    "type",
    "typeof",
    "use",
    "where",
];

/// Words that WIT wants marked where they are names.
const WIT_WORDS: [&str; 12] = [
    "constructor",
    "export",
    "flags",
    "func",
    "import",
    "include",
    "interface",
    "list",
    "option",
    "package",
    "record",
    "result",
];

/// A project, and the SDK that it stands on.
#[derive(Clone, Debug)]
pub struct NewProject {
    /// What it and its recipe are called.
    pub name: String,
    /// The folder to make.
    pub directory: PathBuf,
    /// The folder of `sdk/rust` in a checkout, or the checkout; none for the SDK that is built in.
    pub sdk: Option<PathBuf>,
}

impl NewProject {
    /// Makes it; gives its files, without the SDK's.
    ///
    /// # Errors
    /// If the name cannot be a recipe's, the folder exists and is not empty, the SDK is not where it is said
    /// to be, or a file cannot be written.
    pub fn make(&self) -> Result<Vec<String>> {
        check_name(&self.name)?;
        let directory = &self.directory;
        let shown = directory.display();
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{shown} is there already, and not empty: name another folder with --directory");
        }
        let given = self.sdk.as_deref().map(find_sdk).transpose()?;
        fs::create_dir_all(directory).with_context(|| format!("cannot make {shown}"))?;
        let (sdk, row) = match given {
            Some(sdk) => {
                let way = relative(&fs::canonicalize(directory)?, &fs::canonicalize(sdk)?);
                (way, String::new())
            }
            None => (
                format!("{SDK_FOLDER}/sdk/rust"),
                format!(
                    "| `{SDK_FOLDER}/` | the SDK, as it came with `quorate`; to use another one, change its path in `Cargo.toml` |\n"
                ),
            ),
        };
        let files = self.files(&sdk, &row);
        for (path, text) in &files {
            write(&directory.join(path), text)?;
        }
        if self.sdk.is_none() {
            let sdk = directory.join(SDK_FOLDER);
            write(&sdk.join("Cargo.toml"), SDK_WORKSPACE)?;
            for (path, text) in SDK {
                write(&sdk.join(path), text)?;
            }
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }

    fn files(&self, sdk: &str, sdk_row: &str) -> Vec<(String, String)> {
        let name = &self.name;
        let interface = match WIT_WORDS.contains(&name.as_str()) {
            true => format!("%{name}"),
            false => name.clone(),
        };
        let filled = |template: &str| {
            template
                .replace("{{name}}", name)
                .replace("{{interface}}", &interface)
                .replace("{{file}}", &name.replace('-', "_"))
                .replace("{{sdk}}", sdk)
                .replace("{{sdk row}}\n", sdk_row)
        };
        let template = |path: &str, template: &str| (path.to_owned(), filled(template));
        vec![
            template(
                "Cargo.toml",
                include_str!("../templates/Cargo.toml.template"),
            ),
            template("src/lib.rs", include_str!("../templates/lib.rs.template")),
            template(
                &format!("scenarios/{name}.txt"),
                include_str!("../templates/scenario.txt"),
            ),
            template("explore.toml", include_str!("../templates/explore.toml")),
            template("README.md", include_str!("../templates/README.md")),
            (".gitignore".into(), "/target\n".into()),
            ("rust-toolchain.toml".into(), TOOLCHAIN.into()),
            // The versions that the SDK is tested with; cargo adds the project to it.
            ("Cargo.lock".into(), SDK_LOCK.into()),
        ]
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let make = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)
    };
    make().with_context(|| format!("cannot write {}", path.display()))
}

/// It becomes a package of cargo, one of WIT, and a recipe.
fn check_name(name: &str) -> Result<()> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    if name.len() > MAX_NAME_BYTES || !name.split('-').all(is_word) {
        bail!(
            "{name:?} cannot be a recipe's name: words of small letters and digits, each beginning with a \
             letter, with hyphens between them, such as fair-lock; at most {MAX_NAME_BYTES} letters"
        );
    }
    if TAKEN.contains(&name) {
        bail!("{name:?} cannot be a recipe's name: cargo or Rust has another use for it");
    }
    Ok(())
}

/// The folder of the crate `quorate-recipe`: that one, or the one in a checkout.
fn find_sdk(given: &Path) -> Result<PathBuf> {
    let candidates = [given.to_owned(), given.join("sdk/rust")];
    let is_it = |folder: &&PathBuf| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"));
        manifest.is_ok_and(|text| text.contains("name = \"quorate-recipe\"\n"))
    };
    let found = candidates.iter().find(is_it).with_context(|| {
        format!(
            "{} is neither the SDK nor a checkout of Quorate: name the folder sdk/rust of one, or leave \
             --sdk out for the SDK that is built in",
            given.display()
        )
    })?;
    Ok(found.clone())
}

/// The way from a folder to another path, both without links, as manifests and scenarios have it.
pub fn relative(from: &Path, to: &Path) -> String {
    let (from, to): (Vec<Component<'_>>, Vec<_>) =
        (from.components().collect(), to.components().collect());
    let same = from
        .iter()
        .zip(&to)
        .take_while(|(one, other)| one == other)
        .count();
    let up = from[same..].iter().map(|_| "..".to_owned());
    let down = to[same..]
        .iter()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_such_that_cargo_wit_and_the_server_take_them() {
        for good in ["fair-lock", "a", "x2", "list"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(101);
        for bad in [
            "", "Lock", "2x", "a--b", "a-", "a_b", "a/b", "..", "fn", "recipe", &long,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_project_has_all_of_the_sdk_and_no_gap_of_a_template() {
        let directory = tempfile::tempdir().unwrap();
        let project = NewProject {
            name: "list".into(),
            directory: directory.path().join("new"),
            sdk: None,
        };
        let files = project.make().unwrap();
        for file in &files {
            let text = fs::read_to_string(project.directory.join(file)).unwrap();
            assert!(!text.contains("{{"), "{file}");
        }
        let read = |path: &str| fs::read_to_string(project.directory.join(path)).unwrap();
        assert!(read("src/lib.rs").contains("interface %list {"));
        assert!(read("Cargo.lock").contains("name = \"wit-bindgen\""));
        assert!(!read("Cargo.lock").contains("name = \"tokio\""));
        let workspace = read("quorate/Cargo.toml");
        assert!(workspace.contains("\nquorate-recipe-macros = { path = \"sdk/rust/macros\" }\n"));
        assert!(workspace.contains("\nwit-bindgen = "));
        for file in [
            "sdk/rust/src/lib.rs",
            "sdk/rust/macros/src/lib.rs",
            "wit/recipe.wit",
        ] {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../..")
                .join(file);
            assert_eq!(
                read(&format!("quorate/{file}")),
                fs::read_to_string(here).unwrap()
            );
        }
        // Nothing is written over.
        assert!(
            project
                .make()
                .unwrap_err()
                .to_string()
                .contains("not empty")
        );
    }

    #[test]
    fn a_project_may_stand_on_a_checkout() {
        let directory = tempfile::tempdir().unwrap();
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut project = NewProject {
            name: "mine".into(),
            directory: directory.path().join("new"),
            sdk: Some(checkout),
        };
        project.make().unwrap();
        let manifest = fs::read_to_string(project.directory.join("Cargo.toml")).unwrap();
        let begin = "quorate-recipe = { path = \"";
        let line = manifest
            .lines()
            .find_map(|line| line.strip_prefix(begin))
            .unwrap();
        let sdk = project.directory.join(line.split('"').next().unwrap());
        assert!(sdk.join("src/tree.rs").exists(), "{line}");
        assert!(!project.directory.join("quorate").exists());
        project.directory = directory.path().join("other");
        project.sdk = Some(directory.path().to_owned());
        assert!(
            project
                .make()
                .unwrap_err()
                .to_string()
                .contains("nor a checkout")
        );
    }
}
