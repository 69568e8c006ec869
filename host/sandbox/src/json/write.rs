//! Component values to JSON, no longer than the caller allows.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use wasmtime::component::Val;

use super::{INFINITY, MINUS_INFINITY, NAN, may_be_null};
use crate::interface::{Definition, Type};

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It returned; its result, without the `ok` around it if it is a `result`.
    Returned(String),
    /// Its result was `err`; the error.
    Failed(String),
}

/// The JSON would be longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The result of an operation as JSON: `null` if it has none. A component's value always fits its type.
pub(crate) fn result(
    ty: Option<&Type>,
    value: Option<&Val>,
    most_bytes: usize,
) -> Result<Side, TooLong> {
    let mut out = Bounded {
        text: String::new(),
        most_bytes,
    };
    let (Some(ty), Some(value)) = (ty, value) else {
        return Ok(Side::Returned("null".into()));
    };
    let carried = |out: &mut Bounded, ty: &Option<Type>, value: &Option<Box<Val>>| match (ty, value)
    {
        (Some(ty), Some(value)) => out.value(ty, value),
        _ => out.write_str("null"),
    };
    let failed = match (unaliased(ty), value) {
        (Type::Result(sides), Val::Result(Ok(value))) => {
            carried(&mut out, &sides.0, value)?;
            false
        }
        (Type::Result(sides), Val::Result(Err(value))) => {
            carried(&mut out, &sides.1, value)?;
            true
        }
        _ => {
            out.value(ty, value)?;
            false
        }
    };
    Ok(match failed {
        false => Side::Returned(out.text),
        true => Side::Failed(out.text),
    })
}

impl From<fmt::Error> for TooLong {
    fn from(_: fmt::Error) -> TooLong {
        TooLong
    }
}

fn unaliased(ty: &Type) -> &Type {
    match ty {
        Type::Named(named) => match &named.definition {
            Definition::Alias(target) => unaliased(target),
            _ => ty,
        },
        _ => ty,
    }
}

struct Bounded {
    text: String,
    most_bytes: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > self.most_bytes {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

impl Bounded {
    fn value(&mut self, ty: &Type, value: &Val) -> fmt::Result {
        match (ty, value) {
            (_, Val::Bool(value)) => write!(self, "{value}"),
            (_, Val::S8(value)) => write!(self, "{value}"),
            (_, Val::U8(value)) => write!(self, "{value}"),
            (_, Val::S16(value)) => write!(self, "{value}"),
            (_, Val::U16(value)) => write!(self, "{value}"),
            (_, Val::S32(value)) => write!(self, "{value}"),
            (_, Val::U32(value)) => write!(self, "{value}"),
            (_, Val::S64(value)) => write!(self, "{value}"),
            (_, Val::U64(value)) => write!(self, "{value}"),
            (_, Val::Float32(value)) => match special(f64::from(*value)) {
                Some(word) => self.string(word),
                None => write!(self, "{value:?}"),
            },
            (_, Val::Float64(value)) => match special(*value) {
                Some(word) => self.string(word),
                None => write!(self, "{value:?}"),
            },
            (_, Val::Char(value)) => self.string(value.encode_utf8(&mut [0; 4])),
            (_, Val::String(value)) | (_, Val::Enum(value)) => self.string(value),
            (Type::Bytes, Val::List(values)) => self.bytes(values),
            (Type::List(item), Val::List(values)) => {
                self.array(values.iter().map(|value| (&**item, value)))
            }
            (Type::Tuple(items), Val::Tuple(values)) => self.array(items.iter().zip(values)),
            (Type::Option(_), Val::Option(None)) => self.write_str("null"),
            (Type::Option(item), Val::Option(Some(value))) if may_be_null(item) => {
                self.single("some", Some((item, value)))
            }
            (Type::Option(item), Val::Option(Some(value))) => self.value(item, value),
            (Type::Result(sides), Val::Result(Ok(value))) => {
                self.single("ok", sides.0.as_ref().zip(value.as_deref()))
            }
            (Type::Result(sides), Val::Result(Err(value))) => {
                self.single("err", sides.1.as_ref().zip(value.as_deref()))
            }
            (Type::Named(named), value) => self.defined(&named.definition, value),
            // The component's own type is where `ty` comes from, so nothing else occurs.
            _ => self.write_str("null"),
        }
    }

    fn defined(&mut self, definition: &Definition, value: &Val) -> fmt::Result {
        match (definition, value) {
            (Definition::Alias(ty), value) => self.value(ty, value),
            (Definition::Record(fields), Val::Record(values)) => {
                self.write_str("{")?;
                for (place, ((name, ty), (_, value))) in fields.iter().zip(values).enumerate() {
                    if place > 0 {
                        self.write_str(",")?;
                    }
                    self.string(name)?;
                    self.write_str(":")?;
                    self.value(ty, value)?;
                }
                self.write_str("}")
            }
            (Definition::Variant(cases), Val::Variant(name, carried)) => {
                let ty = cases.iter().find(|(case, _)| case == name);
                match ty.and_then(|(_, ty)| ty.as_ref()).zip(carried.as_deref()) {
                    Some(carried) => self.single(name, Some(carried)),
                    None => self.string(name),
                }
            }
            (Definition::Flags(_), Val::Flags(set)) => {
                self.write_str("[")?;
                for (place, flag) in set.iter().enumerate() {
                    if place > 0 {
                        self.write_str(",")?;
                    }
                    self.string(flag)?;
                }
                self.write_str("]")
            }
            _ => self.write_str("null"),
        }
    }

    fn array<'a>(&mut self, values: impl Iterator<Item = (&'a Type, &'a Val)>) -> fmt::Result {
        self.write_str("[")?;
        for (place, (ty, value)) in values.enumerate() {
            if place > 0 {
                self.write_str(",")?;
            }
            self.value(ty, value)?;
        }
        self.write_str("]")
    }

    /// An object with one name.
    fn single(&mut self, name: &str, carried: Option<(&Type, &Val)>) -> fmt::Result {
        self.write_str("{")?;
        self.string(name)?;
        self.write_str(":")?;
        match carried {
            Some((ty, value)) => self.value(ty, value)?,
            None => self.write_str("null")?,
        }
        self.write_str("}")
    }

    fn bytes(&mut self, values: &[Val]) -> fmt::Result {
        // Each byte takes at least one in JSON.
        if values.len() > self.most_bytes {
            return Err(fmt::Error);
        }
        let bytes: Vec<u8> = values
            .iter()
            .map(|value| match value {
                Val::U8(byte) => *byte,
                _ => 0,
            })
            .collect();
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.string(text),
            Err(_) => write!(self, "{{\"base64\":\"{}\"}}", BASE64.encode(bytes)),
        }
    }

    fn string(&mut self, text: &str) -> fmt::Result {
        self.write_str("\"")?;
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| matches!(c, '"' | '\\' | '\0'..='\x1f')) {
            self.write_str(&rest[..at])?;
            match rest.as_bytes()[at] {
                b'"' => self.write_str("\\\"")?,
                b'\\' => self.write_str("\\\\")?,
                b'\n' => self.write_str("\\n")?,
                b'\r' => self.write_str("\\r")?,
                b'\t' => self.write_str("\\t")?,
                control => write!(self, "\\u{control:04x}")?,
            }
            rest = &rest[at + 1..];
        }
        self.write_str(rest)?;
        self.write_str("\"")
    }
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some(NAN)
    } else if value == f64::INFINITY {
        Some(INFINITY)
    } else if value == f64::NEG_INFINITY {
        Some(MINUS_INFINITY)
    } else {
        None
    }
}
