//! What an upload is refused for, and what it is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use quorate_sandbox::{UploadError, UploadLimits, prepare};

fn refused(upload: &[u8]) -> UploadError {
    prepare(upload, &UploadLimits::default()).expect_err("it was accepted")
}

/// Of a component or module in text form.
fn refused_text(text: &str) -> UploadError {
    refused(&wat::parse_str(text).unwrap())
}

#[track_caller]
fn assert_says(error: &UploadError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn what_is_no_webassembly() {
    assert_eq!(refused(b""), UploadError::NotWebAssembly);
    assert_eq!(refused(b"#!/bin/sh"), UploadError::NotWebAssembly);
    assert_eq!(refused(b" (module)"), UploadError::TextForm);
    assert!(matches!(
        refused(b"\0asm\x01\0\0\0garbage"),
        UploadError::Malformed(_)
    ));
    assert!(matches!(refused(b"\0asm"), UploadError::Malformed(_)));
}

#[test]
fn a_core_module_without_an_interface() {
    let error = refused_text("(module)");
    assert_eq!(error, UploadError::NoInterface);
    assert_says(&error, &["SDK", "quorate-recipe"]);
}

#[test]
fn imports_of_others_are_named() {
    let error = refused_text(
        r#"(component (import "wasi:clocks/wall-clock@0.2.3" (instance (export "now" (func)))))"#,
    );
    assert_says(
        &error,
        &["wasi:clocks/wall-clock@0.2.3", "wasm32-unknown-unknown"],
    );
    let error = refused_text(r#"(component (import "fetch" (func)))"#);
    assert_says(&error, &["imports fetch"]);
}

#[test]
fn another_version_of_the_abi() {
    let error = refused_text(
        r#"(component (import "quorate:recipe/call@0.2.0" (instance (export "now" (func (result u64))))))"#,
    );
    assert_says(&error, &["quorate:recipe 0.2.0", "this server has 0.1.0"]);
}

#[test]
fn a_later_patch_version_is_taken_as_far_as_this_server_has_it() {
    let component = |function: &str| {
        format!(
            r#"(component
                (import "quorate:recipe/call@0.1.9" (instance (export "{function}" (func (result u64)))))
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func (export "f") (canon lift (core func $i "f"))))"#
        )
    };
    let upload = wat::parse_str(component("now")).unwrap();
    assert!(prepare(&upload, &UploadLimits::default()).is_ok());
    let error = refused_text(&component("tomorrow"));
    assert_says(&error, &["call.tomorrow", "upgrade the server"]);
}

#[test]
fn an_import_of_another_type() {
    let error = refused_text(
        r#"(component (import "quorate:recipe/call@0.1.0" (instance (export "now" (func (result s64))))))"#,
    );
    assert_says(&error, &["call.now", "another type"]);
}

#[test]
fn no_operation() {
    assert_eq!(refused_text("(component)"), UploadError::NoOperation);
}

#[test]
fn types_that_do_not_outlive_a_run() {
    let of = |declare: &str, parameter: &str| {
        refused_text(&format!(
            r#"(component
                (import "example:own/types" (instance $types (export "x" (type $x (sub resource)))))
                (alias export $types "x" (type $x))
                {declare}
                (core module $m (func (export "f") (param i32)))
                (core instance $i (instantiate $m))
                (func (export "f") (param "v" {parameter}) (canon lift (core func $i "f"))))"#
        ))
    };
    // The resource's own interface is what is named first: nobody gives it.
    assert_says(&of("(type $o (own $x))", "$o"), &["example:own/types"]);
    for (ty, word) in [("(stream u8)", "stream"), ("(future u8)", "future")] {
        let error = refused_text(&format!(
            r#"(component
                (type $t {ty})
                (core module $m (func (export "f") (param i32)))
                (core instance $i (instantiate $m))
                (func (export "f") (param "v" $t) (canon lift (core func $i "f"))))"#
        ));
        assert_says(&error, &["the operation f", word]);
    }
    let error = refused_text(
        r#"(component
            (core module $m (func (export "f")) (func (export "d") (param i32)))
            (core instance $i (instantiate $m))
            (type $r (resource (rep i32)))
            (component $c
                (import "r" (type $r (sub resource)))
                (import "f" (func $f (result (own $r))))
                (export $r2 "r" (type $r))
                (export "f" (func $f) (func (result (own $r2)))))
            (core module $m2 (func (export "f") (result i32) i32.const 0))
            (core instance $i2 (instantiate $m2))
            (func $f (result (own $r)) (canon lift (core func $i2 "f")))
            (instance $c (instantiate $c (with "r" (type $r)) (with "f" (func $f))))
            (export "example:own/things" (instance $c)))"#,
    );
    assert_says(&error, &["the operation f", "resource"]);
}

#[test]
fn bounds_are_named() {
    let limits = |change: fn(&mut UploadLimits)| {
        let mut limits = UploadLimits::default();
        change(&mut limits);
        limits
    };
    let component = wat::parse_str(
        r#"(component
            (core module $m
                (import "a" "b" (global i32)) (global i32 (i32.const 0)) (type (func (param i32)))
                (memory 1) (memory 1) (table 1 funcref) (data (i32.const 0) "a") (data (i32.const 1) "b")
                (func (export "f")) (func))
            (core instance (instantiate $m))
            (core instance $i (instantiate $m))
            (type $pair (tuple u8 u8))
            (type $pairs (tuple $pair $pair))
            (func (export "f") (canon lift (core func $i "f")))
            (func (export "g") (result $pairs) (canon lift (core func $i "f"))))"#,
    );
    // The last function does not validate, but the counts are held before that.
    let component = component.unwrap();
    type Change = fn(&mut UploadLimits);
    let cases: [(Change, &str); 14] = [
        (|it| it.bytes = 100, "bytes"),
        (|it| it.modules = 2, "modules"),
        (|it| it.functions = 1, "functions"),
        (|it| it.segments = 1, "segments"),
        (|it| it.memories = 1, "memories"),
        (|it| it.tables = 0, "tables"),
        (|it| it.type_bytes = 3, "type-bytes"),
        (|it| it.globals = 0, "globals"),
        (|it| it.types = 1, "types"),
        (|it| it.imports = 0, "imports"),
        (|it| it.exports = 1, "exports"),
        (|it| it.code_bytes = 3, "code-bytes"),
        (|it| it.function_bytes = 1, "function-bytes"),
        (|it| it.nesting = 0, "nesting"),
    ];
    for (change, name) in cases {
        match prepare(&component, &limits(change)) {
            Err(error @ UploadError::TooLarge { bound, .. }) => {
                assert_eq!(bound, name);
                assert_says(&error, &["is the most"]);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn names_of_the_interface_are_bounded() {
    let component = wat::parse_str(
        r#"(component
            (core module $m (func (export "f") (param i32)))
            (core instance $i (instantiate $m))
            (func (export "a-name") (param "a-longer-name" u32) (canon lift (core func $i "f"))))"#,
    )
    .unwrap();
    let mut limits = UploadLimits::default();
    assert!(prepare(&component, &limits).is_ok());
    limits.name_bytes = 12;
    let error = prepare(&component, &limits).unwrap_err();
    assert_says(&error, &["name-bytes", "it has 13"]);
}

#[test]
fn components_in_components_are_bounded() {
    let mut text = "(component)".to_owned();
    for _ in 0..20 {
        text = format!("(component {text})");
    }
    assert_says(&refused_text(&text), &["nesting", "9", "8 is the most"]);
}

#[test]
fn types_that_explode_when_written_out() {
    let mut text = String::from("(type $t0 (tuple u8 u8))");
    for level in 1..18 {
        let below = level - 1;
        text.push_str(&format!("(type $t{level} (tuple $t{below} $t{below}))"));
    }
    let error = refused_text(&format!(
        r#"(component
            {text}
            (core module $m (memory (export "m") 1) (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "f") (result $t17) (canon lift (core func $i "f") (memory (core memory $i "m")))))"#
    ));
    assert!(
        matches!(
            error,
            UploadError::TooLarge {
                bound: "type-nodes",
                ..
            }
        ),
        "{error}"
    );
    let mut text = String::from("(type $t0 (list u8))");
    for level in 1..40 {
        let below = level - 1;
        text.push_str(&format!("(type $t{level} (list $t{below}))"));
    }
    let error = refused_text(&format!(
        r#"(component
            {text}
            (core module $m (memory (export "m") 1) (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "f") (result $t39) (canon lift (core func $i "f") (memory (core memory $i "m")))))"#
    ));
    assert!(
        matches!(
            error,
            UploadError::TooLarge {
                bound: "type-depth",
                ..
            }
        ),
        "{error}"
    );
}

/// Readers of nested types recurse, so that a hundred kilobytes of them would overflow an ordinary stack.
#[test]
fn types_nested_as_deep_as_the_bound_allows() {
    let mut section = vec![1_u8];
    let depth = 30_000;
    for _ in 0..depth {
        // An instance type with one declaration, a type.
        section.extend([0x42, 1, 1]);
    }
    section.extend([0x42, 0]);
    let mut component = b"\0asm\x0d\0\x01\0\x07".to_vec();
    let mut length = section.len();
    while length >= 0x80 {
        component.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    component.push(length as u8);
    component.extend(section);
    let error = refused(&component);
    assert!(
        matches!(
            error,
            UploadError::TooLarge {
                bound: "type-nesting",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_same_upload_gives_the_same_component() {
    let wasm = quorate_recipes::find("counter").unwrap().wasm;
    let limits = UploadLimits::default();
    let one = prepare(wasm, &limits).unwrap();
    let again = prepare(&one.component, &limits).unwrap();
    assert_eq!(one.digest, prepare(wasm, &limits).unwrap().digest);
    assert_eq!(one.digest, again.digest, "a component is kept as it is");
    assert_eq!(one.interface, again.interface);
}

#[test]
fn damaged_uploads_are_refused_without_a_panic() {
    let limits = UploadLimits::default();
    let wasm = quorate_recipes::find("counter").unwrap().wasm;
    let component = prepare(wasm, &limits).unwrap().component;
    for upload in [wasm, &component[..]] {
        // Cut anywhere, or one bit turned: accepted or refused, but decided.
        for place in (0..upload.len()).step_by(upload.len() / 60) {
            let _ = prepare(&upload[..place], &limits);
            let mut damaged = upload.to_vec();
            damaged[place] ^= 1 << (place % 8);
            let _ = prepare(&damaged, &limits);
        }
    }
}
