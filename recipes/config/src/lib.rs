//! Versioned documents, checked against a schema. A document is a znode with the last version as its data; below it
//! stand its versions, each under its number, and its schema. At an open mount the guard makes a version of each
//! document that a plain client writes, if it fits.

use quorate_recipe::prelude::*;
use serde_json::Value;

mod schema;

recipe!(
    r#"
    package quorate:config@0.1.0;

    /// Versioned documents in JSON. A document stays until it is removed, with its last 100 versions; each
    /// change is a version more, a rollback too, and versions are numbered from 1. A document that has a
    /// schema fits it in every version from then on. Its last version is the data of the znode of its name.
    ///
    /// At an open mount a plain client creates and sets that znode: that puts a version too, or is refused
    /// if it does not fit. What stands below it is changed by the operations alone.
    interface config {
        /// A version of a document.
        record revision {
            /// Its number: grows by one with each change.
            version: u64,
            /// The document, as it was put.
            document: string,
            /// When it was put, in milliseconds since the Unix epoch.
            put-at: u64,
        }

        /// Puts a document, which is JSON; gives the version. Refused if it does not fit its schema.
        put: func(name: string, document: string) -> u64;

        /// The same if the version is `expected`, 0 for a document that is not there yet; none if it is
        /// another.
        put-if: func(name: string, document: string, expected: u64) -> option<u64>;

        /// The document; none if there is none.
        get: func(name: string) -> option<revision>;

        /// An earlier version of the document, of those that are kept.
        get-version: func(name: string, version: u64) -> option<revision>;

        /// The numbers of the versions that are kept, the latest first.
        versions: func(name: string) -> list<u64>;

        /// Puts an earlier version again, as a new one; gives its number. Refused if that version is not
        /// kept, or does not fit the schema that there is now.
        rollback: func(name: string, version: u64) -> u64;

        /// Waits until the version is another than `known`, 0 for a document that is not there; gives
        /// what is there then. Of several changes meanwhile, the last.
        wait-for-change: func(name: string, known: u64) -> option<revision>;

        /// Gives the document a schema, also before there is a document; none removes it. Refused if it is
        /// not of the subset of JSON Schema that is checked here, or the document does not fit it.
        ///
        /// The subset: type, enum, const; properties, required, additionalProperties, minProperties,
        /// maxProperties; items, minItems, maxItems, uniqueItems; minLength, maxLength; minimum, maximum,
        /// exclusiveMinimum, exclusiveMaximum; allOf, anyOf, oneOf, not; true and false; and what only
        /// describes: title, description, default, examples, format, deprecated, $schema, $id, $comment.
        set-schema: func(name: string, schema: option<string>);

        /// The schema; none if there is none.
        get-schema: func(name: string) -> option<string>;

        /// The names of all documents, at most ten thousand.
        documents: func() -> list<string>;

        /// Removes a document with its versions and schema; says whether there was one. One that is put
        /// later under its name begins with version 1.
        remove: func(name: string) -> bool;
    }

    world recipe {
        export config;
        export quorate:recipe/guard@0.1.0;
    }
"#
);

/// Versions that are kept of a document.
const MAX_VERSIONS: u32 = 100;

fn put(name: String, document: String) -> u64 {
    require_name(&name);
    put_next(&name, &document)
}

fn put_if(name: String, document: String, expected: u64) -> Option<u64> {
    require_name(&name);
    (latest(&name) == expected).then(|| put_next(&name, &document))
}

fn get(name: String) -> Option<Revision> {
    require_name(&name);
    let last = tree::entries(&versions_path(&name), &Range::last(1)).pop()?;
    Some(Revision {
        version: number(&last.name),
        document: last.text().to_owned(),
        put_at: last.stat.created_at,
    })
}

fn get_version(name: String, version: u64) -> Option<Revision> {
    require_name(&name);
    let node = tree::get(&version_path(&name, version))?;
    Some(Revision {
        version,
        document: node.text().to_owned(),
        put_at: node.stat.created_at,
    })
}

fn versions(name: String) -> Vec<u64> {
    require_name(&name);
    let kept = tree::children(&versions_path(&name), &Range::last(MAX_VERSIONS));
    kept.iter().map(|kept| number(kept)).collect()
}

fn rollback(name: String, version: u64) -> u64 {
    match get_version(name.clone(), version) {
        Some(earlier) => put_next(&name, &earlier.document),
        None => refuse!("the version {version} of {name:?} is not kept"),
    }
}

fn wait_for_change(name: String, known: u64) -> Option<Revision> {
    require_name(&name);
    if latest(&name) == known {
        watch::children(&versions_path(&name));
        call::park("");
    }
    get(name)
}

fn set_schema(name: String, schema: Option<String>) {
    require_name(&name);
    let path = schema_path(&name);
    let Some(text) = schema else {
        if tree::exists(&path).is_some() {
            tree::delete(&path);
        }
        return;
    };
    let schema = parse(&text, "the schema");
    if let Err(why) = schema::check(&schema) {
        refuse!("the schema cannot be taken: {why}");
    }
    if let Some(last) = get(name.clone()) {
        let document = parse(&last.document, "the document");
        if let Err(why) = schema::fit(&document, &schema) {
            refuse!("the document {name:?} does not fit: {why}");
        }
    }
    tree::put(&path, text);
}

fn get_schema(name: String) -> Option<String> {
    require_name(&name);
    Some(tree::get(&schema_path(&name))?.text().to_owned())
}

/// What plain clients write at an open mount.
fn admit(changes: Vec<Change>) {
    for Change { path, after, .. } in changes {
        if let Some((name, below)) = path.split_once('/') {
            refuse!("{name}/{below} is of the document {name:?}: call an operation to change it");
        }
        // It goes without versions only: those stand below it.
        let Some(document) = after else {
            continue;
        };
        if !matches!(
            document.stat.lifetime,
            Lifetime::Persistent | Lifetime::Container
        ) {
            refuse!(
                "the document {path:?} would go by itself: documents stay until they are removed"
            );
        }
        match str::from_utf8(&document.data) {
            Ok(text) => put_next(&path, text),
            Err(_) => refuse!("the document {path:?} is no text in UTF-8"),
        };
    }
}

fn documents() -> Vec<String> {
    let mut names = tree::children("", &Range::all());
    // One may have a schema and no document yet.
    names.retain(|name| tree::exists(&versions_path(name)).is_some());
    names
}

fn remove(name: String) -> bool {
    require_name(&name);
    let versions = versions_path(&name);
    let kept = tree::children(&versions, &Range::all());
    for version in &kept {
        tree::delete(&path!(versions, version));
    }
    if !kept.is_empty() && tree::exists(&schema_path(&name)).is_some() {
        tree::delete(&schema_path(&name));
    }
    // A plain client's znode does not go with what stood below it.
    if tree::exists(&name).is_some_and(|stat| stat.children == 0) {
        tree::delete(&name);
    }
    !kept.is_empty()
}

/// Puts a document that fits as the next version, and lets go of the oldest.
fn put_next(name: &str, text: &str) -> u64 {
    let document = parse(text, "the document");
    if let Some(schema) = get_schema(name.to_owned())
        && let Err(why) = schema::fit(&document, &parse(&schema, "the schema"))
    {
        refuse!("the document {name:?} does not fit its schema: {why}");
    }
    let version = latest(name) + 1;
    tree::create(&version_path(name, version), text, Lifetime::Persistent);
    if tree::get(name).is_some_and(|node| node.data != text.as_bytes()) {
        tree::set(name, text);
    }
    let versions = versions_path(name);
    if tree::exists(&versions).is_some_and(|stat| stat.children > MAX_VERSIONS)
        && let Some(oldest) = tree::first(&versions)
    {
        tree::delete(&path!(versions, oldest.name));
    }
    version
}

fn parse(text: &str, what: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => refuse!("{what} is no JSON: {error}"),
    }
}

/// The number of the last version; 0 if there is no document.
fn latest(name: &str) -> u64 {
    let last = tree::children(&versions_path(name), &Range::last(1)).pop();
    last.map_or(0, |last| number(&last))
}

fn versions_path(name: &str) -> String {
    path!(name, "versions")
}

fn version_path(name: &str, version: u64) -> String {
    format!("{}/{version:020}", versions_path(name))
}

fn schema_path(name: &str) -> String {
    path!(name, "schema")
}

fn number(version: &str) -> u64 {
    version.parse().expect("a version's name is its number")
}
