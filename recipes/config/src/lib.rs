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

        /// Some of the documents' names.
        record name-page {
            /// In byte order.
            names: list<string>,
            /// The `after` of the next page; none if these were the last.
            next: option<string>,
        }

        /// Puts a document, which is JSON; gives the version. Refused if it does not fit its schema, has more
        /// than 128 KiB (`document-bytes`) or 6,000 values (`document-values`; a key counts as four), or takes more than
        /// 25,000 steps to check (`check-steps`).
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
        /// not of the subset of JSON Schema that is checked here, or the document does not fit it; or if it
        /// has more than 32 KiB (`schema-bytes`), or 2,500 values (`schema-values`; a key counts as four).
        ///
        /// The subset: type, enum, const; properties, required, additionalProperties, minProperties,
        /// maxProperties; items, minItems, maxItems, uniqueItems; minLength, maxLength; minimum, maximum,
        /// exclusiveMinimum, exclusiveMaximum; allOf, anyOf, oneOf, not; true and false; and what only
        /// describes: title, description, default, examples, format, deprecated, $schema, $id, $comment.
        set-schema: func(name: string, schema: option<string>);

        /// The schema; none if there is none.
        get-schema: func(name: string) -> option<string>;

        /// The names of all documents, if they fit one answer: 2,000, and 512 KiB. Refused if there are more:
        /// `documents-after` gives them too.
        documents: func() -> list<string>;

        /// The names behind `after`: `most` at most, and what fits one answer. With none it begins at the
        /// first.
        documents-after: func(after: option<string>, most: u32) -> name-page;

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

/// A document: with whatever has to be escaped in it, it fits an answer. And its keys and values, since it is read at
/// each put.
const MAX_DOCUMENT_BYTES: usize = 128 << 10;
const MAX_DOCUMENT_VALUES: u64 = 6_000;

/// A schema, which is read at each put too.
const MAX_SCHEMA_BYTES: usize = 32 << 10;
const MAX_SCHEMA_VALUES: u64 = 2_500;

/// What one request may have read and checked: one document and its schema always, several documents of a plain
/// client's multi if they are small. A check takes about a step for each pair of a document's value and a part of the
/// schema that it is held against.
const MAX_CHECK_VALUES: u64 = MAX_DOCUMENT_VALUES + MAX_SCHEMA_VALUES;
const MAX_CHECK_BYTES: u64 = (MAX_DOCUMENT_BYTES + MAX_SCHEMA_BYTES) as u64;
const MAX_CHECK_STEPS: u64 = 25_000;

/// Names in one answer: each is looked at.
const MAX_LISTED: u32 = 2_000;

fn put(name: String, document: String) -> u64 {
    require_name(&name);
    put_next(&name, &document, &mut Work::new())
}

fn put_if(name: String, document: String, expected: u64) -> Option<u64> {
    require_name(&name);
    (latest(&name) == expected).then(|| put_next(&name, &document, &mut Work::new()))
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
        Some(earlier) => put_next(&name, &earlier.document, &mut Work::new()),
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
    let mut work = Work::new();
    let schema = work.read_schema(&text);
    if let Err(why) = schema::check(&schema) {
        refuse!("the schema cannot be taken: {why}");
    }
    if let Some(last) = get(name.clone()) {
        let document = work.read_document(&last.document);
        if let Err(why) = work.fit(&document, &schema) {
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
    let mut work = Work::new();
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
        require_name(&path);
        match str::from_utf8(&document.data) {
            Ok(text) => put_next(&path, text, &mut work),
            Err(_) => refuse!("the document {path:?} is no text in UTF-8"),
        };
    }
}

fn documents() -> Vec<String> {
    documents_behind(None, MAX_LISTED).all_or_refuse("documents-after")
}

fn documents_after(after: Option<String>, most: u32) -> NamePage {
    let page = documents_behind(after, most);
    NamePage {
        names: page.items,
        next: page.next,
    }
}

fn documents_behind(after: Option<String>, most: u32) -> page::Page<String> {
    let mut page = page::names_after("", after, most.min(MAX_LISTED));
    // One may have a schema and no document yet.
    page.items
        .retain(|name| tree::exists(&versions_path(name)).is_some());
    page
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
fn put_next(name: &str, text: &str, work: &mut Work) -> u64 {
    let document = work.read_document(text);
    if let Some(schema) = get_schema(name.to_owned()) {
        let schema = work.read_schema(&schema);
        if let Err(why) = work.fit(&document, &schema) {
            refuse!("the document {name:?} does not fit its schema: {why}");
        }
    }
    let version = latest(name) + 1;
    tree::create(&version_path(name, version), text, Lifetime::Persistent);
    if tree::get(name).is_some_and(|node| node.data != text.as_bytes()) {
        tree::set(name, text);
    }
    let versions = versions_path(name);
    if tree::exists(&versions).is_some_and(|stat| stat.children > MAX_VERSIONS)
        && let Some(oldest) = tree::children(&versions, &Range::first(1)).pop()
    {
        tree::delete(&path!(versions, oldest));
    }
    version
}

/// What this request may still read and check. So a run never exceeds its own bounds, and who asks for too much is told.
struct Work {
    bytes: u64,
    values: u64,
    steps: u64,
}

impl Work {
    fn new() -> Work {
        Work {
            bytes: MAX_CHECK_BYTES,
            values: MAX_CHECK_VALUES,
            steps: MAX_CHECK_STEPS,
        }
    }

    fn read_document(&mut self, text: &str) -> Value {
        bound::require_bytes("document-bytes", text, MAX_DOCUMENT_BYTES);
        let values = schema::values_in(text);
        bound::require_most("document-values", values, MAX_DOCUMENT_VALUES);
        self.read(text, values, "the document")
    }

    fn read_schema(&mut self, text: &str) -> Value {
        bound::require_bytes("schema-bytes", text, MAX_SCHEMA_BYTES);
        let values = schema::values_in(text);
        bound::require_most("schema-values", values, MAX_SCHEMA_VALUES);
        self.read(text, values, "the schema")
    }

    fn read(&mut self, text: &str, values: u64, what: &str) -> Value {
        let bytes = self.bytes.checked_sub(text.len() as u64);
        let values = self.values.checked_sub(values);
        let (Some(bytes), Some(values)) = (bytes, values) else {
            bound::reached(
                "request-documents",
                &format!(
                    "one request has documents, with their schemas, of {MAX_CHECK_BYTES} bytes and \
                     {MAX_CHECK_VALUES} keys and values at most"
                ),
            );
        };
        (self.bytes, self.values) = (bytes, values);
        match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => refuse!("{what} is no JSON: {error}"),
        }
    }

    /// Why the document does not fit, if it does not.
    fn fit(&mut self, document: &Value, schema: &Value) -> Result<(), String> {
        match schema::fit(document, schema, &mut self.steps) {
            Ok(()) => Ok(()),
            Err(schema::Misfit::Wrong(why)) => Err(why),
            Err(schema::Misfit::TooCostly) => bound::reached(
                "check-steps",
                &format!(
                    "to check the document against its schema takes more than {MAX_CHECK_STEPS} steps"
                ),
            ),
        }
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
