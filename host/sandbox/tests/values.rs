//! Values of every kind go into a component and come out again, and its interface is described as written.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod double;

use double::{Mounted, returned};
use quorate_sandbox::{Sandbox, SandboxConfig, UploadLimits, prepare};
use wit_component::StringEncoding;
use wit_parser::Resolve;

const WIT: &str = r#"
    package example:echo@1.2.3;
    /// Says again.
    interface shapes {
        enum colour { red, green }
        flags rights { read, write, admin }
        /// How long.
        variant lifetime { persistent, until(u64) }
        type name = string;
    }
    /// Says it again.
    interface echo {
        use shapes.{colour, rights, lifetime, name};
        /// One of each.
        record everything {
            yes: bool, a: s8, b: u8, c: s16, d: u16, e: s32, f: u32, g: s64, h: u64, i: f32, j: f64,
            k: char, l: name, m: list<u8>, n: list<string>, o: tuple<u8, string>, p: option<option<u8>>,
            q: result<u8, string>, r: result, colour: colour, rights: rights, lifetimes: list<lifetime>,
        }
        /// Gives back what it is given.
        echo: func(value: everything) -> everything;
    }
    interface other {
        echo: func();
    }
    world recipe { export echo; export other; export nothing: func(); }
"#;

/// A parameter that needs more than sixteen core values is passed in memory, laid out as the result is. So a
/// core function that returns its argument gives back whatever it is given.
const MODULE: &str = r#"(module
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 64))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
        (global.get $free)
        (global.set $free (i32.add (global.get $free) (local.get 3))))
    (func (export "example:echo/echo@1.2.3#echo") (param i32) (result i32) (local.get 0))
    (func (export "example:echo/other@1.2.3#echo"))
    (func (export "nothing"))
    (func (export "not-in-the-interface")))"#;

const VALUE: &str = r#"{"yes":true,"a":-128,"b":255,"c":-32768,"d":65535,"e":-2147483648,"f":4294967295,"g":-9223372036854775808,"h":18446744073709551615,"i":"NaN","j":-0.5,"k":"ü","l":"text","m":{"base64":"/wA="},"n":["a",""],"o":[1,"b"],"p":{"some":null},"q":{"err":"no"},"r":{"ok":null},"colour":"green","rights":["read","admin"],"lifetimes":["persistent",{"until":5}]}"#;

/// A core module as a language's tools make it.
fn upload() -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("echo.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = wat::parse_str(MODULE).unwrap();
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    // A custom section: id, length, name, text.
    let name = b"quorate:wit";
    let mut section = vec![name.len() as u8];
    section.extend(name);
    section.extend(WIT.as_bytes());
    module.push(0);
    module.extend([
        (section.len() & 0x7f) as u8 | 0x80,
        (section.len() >> 7) as u8,
    ]);
    module.extend(section);
    module
}

#[test]
fn every_kind_of_value_crosses_unchanged() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let mut mounted = Mounted::new(&sandbox, &upload());
    let arguments = format!("[{VALUE}]");
    assert_eq!(mounted.call(1, "echo.echo", &arguments), returned(VALUE));
    let full_name = "example:echo/echo@1.2.3.echo";
    assert_eq!(mounted.call(1, full_name, &arguments), returned(VALUE));
    assert_eq!(mounted.call(1, "nothing", ""), returned("null"));
}

#[test]
fn the_operation_is_named_or_told() {
    let prepared = prepare(&upload(), &UploadLimits::default()).unwrap();
    let interface = &prepared.interface;
    assert_eq!(
        interface.find("echo").unwrap_err(),
        "several interfaces have an operation \"echo\": say which of nothing, echo.echo and other.echo"
    );
    assert_eq!(
        interface.find("say").unwrap_err(),
        "there is no operation \"say\"; there is nothing, echo.echo and other.echo"
    );
    assert!(interface.find("other.echo").is_ok());
    assert!(interface.find("echo.nothing").is_err());
}

#[test]
fn the_interface_is_described_as_it_is_written() {
    let prepared = prepare(&upload(), &UploadLimits::default()).unwrap();
    let description = prepared.interface.describe();
    assert_eq!(description.documentation.as_deref(), Some("Says it again."));
    let operation = &description.operations[1];
    assert_eq!(
        operation.signature(),
        "echo(value: everything) -> everything"
    );
    assert_eq!(
        operation.interface.as_deref(),
        Some("example:echo/echo@1.2.3")
    );
    let documentation = operation.documentation.as_deref();
    assert_eq!(documentation, Some("Gives back what it is given."));
    let definitions: Vec<_> = description.types.iter().map(|ty| &*ty.definition).collect();
    assert_eq!(
        definitions[..4],
        [
            "type name = string",
            "enum colour { red, green }",
            "flags rights { read, write, admin }",
            "variant lifetime { persistent, until(u64) }",
        ]
    );
    assert!(definitions[4].starts_with("record everything { yes: bool, a: s8,"));
    assert!(definitions[4].contains("p: option<option<u8>>, q: result<u8, string>, r: result,"));
    assert_eq!(
        description.types[3].documentation.as_deref(),
        Some("How long.")
    );
    assert_eq!(
        description.types[4].documentation.as_deref(),
        Some("One of each.")
    );

    let json = serde_json::to_string(&description).unwrap();
    assert!(json.contains(r#""parameters":[{"name":"value","type":"everything"}]"#));
    assert_eq!(description, serde_json::from_str(&json).unwrap());
}
