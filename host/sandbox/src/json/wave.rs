//! Arguments as WAVE writes them (the WebAssembly value encoding), such as `("inventory", 3, some(1))`: what a call
//! has that is made by reading a path (rule C8). They become the JSON that says the same, by their types.

use serde_json::{Map, Value};

use super::may_be_null;
use crate::interface::{Definition, Named, Operation, Type};

/// The values between parentheses, in order, as a JSON array. For people if they make no sense.
pub(super) fn arguments(operation: &Operation, text: &str) -> Result<Value, String> {
    let mut parser = Parser { text, at: 0 };
    let mut values = Vec::new();
    parser.expect('(')?;
    parser.items(')', |parser| {
        let Some((name, ty)) = operation.parameters.get(values.len()) else {
            let count = operation.parameters.len();
            return Err(format!("{} takes only {count} arguments", operation.name));
        };
        let value = parser.value(ty);
        values.push(value.map_err(|problem| format!("argument `{name}`: {problem}"))?);
        Ok(())
    })?;
    match parser.rest() {
        "" => Ok(Value::Array(values)),
        rest => Err(format!("behind the arguments stands {rest:?}")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// Recursion goes as deep as the types, which the upload check bounds.
impl Parser<'_> {
    /// What is left, from the next character that is no white space.
    fn rest(&mut self) -> &str {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn takes(&mut self, character: char) -> bool {
        let found = self.rest().starts_with(character);
        if found {
            self.at += character.len_utf8();
        }
        found
    }

    fn expect(&mut self, character: char) -> Result<(), String> {
        match self.takes(character) {
            true => Ok(()),
            false => Err(format!("expected {character:?}, got {}", self.found())),
        }
    }

    /// What stands here, for people.
    fn found(&mut self) -> String {
        match self.rest().chars().next() {
            Some(character) => format!("{character:?}"),
            None => "the end".into(),
        }
    }

    /// The longest run of such characters.
    fn run(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let run = rest[..end].to_owned();
        self.at += end;
        run
    }

    /// A name, which `%` may stand in front of.
    fn label(&mut self) -> Result<String, String> {
        self.takes('%');
        let label = self.run(|c| c.is_ascii_alphanumeric() || c == '-');
        match label.is_empty() {
            true => Err(format!("expected a name, got {}", self.found())),
            false => Ok(label),
        }
    }

    /// The same, if a name stands here that is one of these.
    fn one_of(&mut self, names: [&str; 2]) -> Option<String> {
        let before = self.at;
        let label = self.label().ok();
        let found = label.filter(|label| names.contains(&label.as_str()));
        if found.is_none() {
            self.at = before;
        }
        found
    }

    fn value(&mut self, ty: &Type) -> Result<Value, String> {
        match ty {
            Type::Bool => match self.label()?.as_str() {
                "true" => Ok(true.into()),
                "false" => Ok(false.into()),
                other => Err(format!("expected true or false, got {other}")),
            },
            Type::Char => {
                self.expect('\'')?;
                let text = self.quoted('\'')?;
                Ok(text.into())
            }
            Type::String => self.string(),
            Type::Bytes if self.rest().starts_with('"') => self.string(),
            Type::Bytes => self.list(&Type::U8),
            Type::List(item) => self.list(item),
            Type::Tuple(items) => {
                self.expect('(')?;
                let mut values = Vec::with_capacity(items.len());
                for item in items.iter() {
                    if !values.is_empty() {
                        self.expect(',')?;
                    }
                    values.push(self.value(item)?);
                }
                self.takes(',');
                self.expect(')')?;
                Ok(Value::Array(values))
            }
            Type::Option(item) => self.option(item),
            Type::Result(sides) => self.result(sides),
            Type::Named(named) => self.defined(named),
            Type::F32 | Type::F64 => match self.one_of(["nan", "inf"]).as_deref() {
                Some("nan") => Ok(super::NAN.into()),
                Some(_) => Ok(super::INFINITY.into()),
                None if self.rest().starts_with("-inf") => {
                    self.at += "-inf".len();
                    Ok(super::MINUS_INFINITY.into())
                }
                None => self.number(),
            },
            _ => self.number(),
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let digits = self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
        let number = serde_json::from_str(&digits).ok().filter(Value::is_number);
        number.ok_or_else(|| match digits.is_empty() {
            true => format!("expected a number, got {}", self.found()),
            false => format!("expected a number, got {digits}"),
        })
    }

    fn string(&mut self) -> Result<Value, String> {
        self.expect('"')?;
        Ok(self.quoted('"')?.into())
    }

    /// Up to the closing quotation mark.
    fn quoted(&mut self, mark: char) -> Result<String, String> {
        let mut text = String::new();
        let mut characters = self.text[self.at..].char_indices();
        let ends = "the closing quotation mark is missing".to_owned();
        while let Some((at, character)) = characters.next() {
            if character == mark {
                self.at += at + mark.len_utf8();
                return Ok(text);
            }
            if character != '\\' {
                text.push(character);
                continue;
            }
            let (_, escape) = characters.next().ok_or_else(|| ends.clone())?;
            text.push(match escape {
                '\\' | '"' | '\'' => escape,
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                'u' => {
                    let rest = characters.as_str();
                    let code = rest.strip_prefix('{').and_then(|it| it.split_once('}'));
                    let code = code.map(|(code, _)| code).filter(|code| code.len() <= 6);
                    let number = code.and_then(|code| u32::from_str_radix(code, 16).ok());
                    let unicode = number.and_then(char::from_u32);
                    let unicode = unicode.ok_or("\\u{…} takes a character's number")?;
                    characters.nth(code.map_or(0, str::len) + 1);
                    unicode
                }
                other => return Err(format!("there is no escape \\{other}")),
            });
        }
        Err(ends)
    }

    /// Items with commas between them, up to `end`; one may stand behind the last.
    fn items(
        &mut self,
        end: char,
        mut item: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut is_first = true;
        while !self.takes(end) {
            if !is_first {
                self.expect(',')?;
                if self.takes(end) {
                    break;
                }
            }
            is_first = false;
            item(self)?;
        }
        Ok(())
    }

    fn list(&mut self, item: &Type) -> Result<Value, String> {
        let mut values = Vec::new();
        self.expect('[')?;
        self.items(']', |parser| {
            values.push(parser.value(item)?);
            Ok(())
        })?;
        Ok(Value::Array(values))
    }

    /// `some(…)` may be left out around what is no option itself.
    fn option(&mut self, item: &Type) -> Result<Value, String> {
        let is_flat = matches!(item, Type::Named(_));
        let value = match self.one_of(["some", "none"]).as_deref() {
            // A case of a variant or an enum may have that name.
            Some("none") => return Ok(Value::Null),
            Some(_) if !is_flat || self.rest().starts_with('(') => {
                self.expect('(')?;
                let value = self.value(item)?;
                self.expect(')')?;
                value
            }
            Some(_) => return Err("expected some(…) or none".into()),
            None => return self.value(item),
        };
        Ok(match may_be_null(item) {
            true => Value::Object(Map::from_iter([("some".to_owned(), value)])),
            false => value,
        })
    }

    fn result(&mut self, sides: &(Option<Type>, Option<Type>)) -> Result<Value, String> {
        let side = self.one_of(["ok", "err"]);
        let side = side.ok_or_else(|| format!("expected ok or err, got {}", self.found()))?;
        let ty = match &*side {
            "ok" => &sides.0,
            _ => &sides.1,
        };
        let carried = self.carried(ty.as_ref())?;
        Ok(Value::Object(Map::from_iter([(side, carried)])))
    }

    /// What stands in parentheses behind a name that carries something.
    fn carried(&mut self, ty: Option<&Type>) -> Result<Value, String> {
        let Some(ty) = ty else {
            return Ok(Value::Null);
        };
        self.expect('(')?;
        let value = self.value(ty)?;
        self.expect(')')?;
        Ok(value)
    }

    fn defined(&mut self, named: &Named) -> Result<Value, String> {
        match &named.definition {
            Definition::Alias(ty) => self.value(ty),
            Definition::Enum(_) => self.label().map(Value::String),
            Definition::Variant(cases) => {
                let name = self.label()?;
                let case = cases.iter().find(|(case, _)| *case == name);
                match case.and_then(|(_, ty)| ty.as_ref()) {
                    None => Ok(name.into()),
                    carries => {
                        let carried = self.carried(carries)?;
                        Ok(Value::Object(Map::from_iter([(name, carried)])))
                    }
                }
            }
            Definition::Flags(_) => {
                let mut flags = Vec::new();
                self.expect('{')?;
                self.items('}', |parser| {
                    flags.push(Value::String(parser.label()?));
                    Ok(())
                })?;
                Ok(Value::Array(flags))
            }
            Definition::Record(fields) => self.record(named, fields),
        }
    }

    fn record(&mut self, named: &Named, fields: &[(String, Type)]) -> Result<Value, String> {
        let mut object = Map::new();
        self.expect('{')?;
        // `{:}` is a record none of whose fields is said.
        self.takes(':');
        self.items('}', |parser| {
            let name = parser.label()?;
            parser.expect(':')?;
            let field = fields.iter().find(|(field, _)| *field == name);
            let (_, ty) = field.ok_or_else(|| format!("{} has no field {name}", named.name))?;
            let value = parser.value(ty);
            let value = value.map_err(|problem| format!(".{name}: {problem}"))?;
            object.insert(name, value);
            Ok(())
        })?;
        Ok(Value::Object(object))
    }
}
