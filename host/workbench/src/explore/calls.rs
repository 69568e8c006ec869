//! What clients may call, with choices: `acquire <north|south>`, `add x <1..5>`, `offer jobs <new>`,
//! `confirm jobs <got id>`.

use anyhow::{Result, bail};
use quorate_model::call::{Acknowledgement, CallRequest};
use quorate_model::path::ZnodePath;
use serde_json::Value;

use crate::properties::{arguments, field};
use crate::words::words;

/// One line of `calls`.
#[derive(Clone, Debug)]
pub(super) struct CallPattern {
    /// As it stands in the file.
    pub(super) text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `<north|south>`
    OneOf(Vec<String>),
    /// `<1..5>`, both included: the first and how many there are.
    Number(i64, u32),
    /// `<new>`: another text each time.
    New,
    /// `<got token>`: that field of something that the client was given earlier.
    Got(String),
}

/// How far back a client looks for what it was given.
const GOT_CHOICES: u32 = 4;

/// The most numbers between the two of a range.
const MAX_NUMBERS: i64 = 1_000_000;

impl CallPattern {
    pub(super) fn parse(text: &str) -> Result<CallPattern> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('<') {
            let Some((choice, behind)) = behind.split_once('>') else {
                bail!("calls: {text:?}: a choice ends with `>`, as in <north|south>");
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::choice(choice, text)?);
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        if text.trim().is_empty() || text.trim_start().starts_with('<') {
            bail!("calls: {text:?}: it begins with an operation");
        }
        let text = text.to_owned();
        Ok(CallPattern { text, parts })
    }

    /// How many possibilities each of its choices has.
    pub(super) fn choices(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().filter_map(|part| match part {
            Part::OneOf(texts) => u32::try_from(texts.len()).ok(),
            Part::Number(_, count) => Some(*count),
            Part::Got(_) => Some(GOT_CHOICES),
            Part::Text(_) | Part::New => None,
        })
    }

    /// The call with these choices; `fresh` is a number that no call had before, `results` are what the client was
    /// given, the last one last. None if it was not given what the call asks for.
    pub(super) fn with(&self, choices: &[u32], fresh: u64, results: &[Value]) -> Option<String> {
        let mut choices = choices.iter();
        let mut text = String::new();
        for part in &self.parts {
            let mut next = || choices.next().copied().unwrap_or_default();
            match part {
                Part::Text(literal) => text += literal,
                Part::OneOf(texts) => {
                    text += texts.get(next() as usize).map_or("", String::as_str);
                }
                Part::Number(first, _) => text += &(first + i64::from(next())).to_string(),
                Part::New => text += &format!("new-{fresh}"),
                Part::Got(path) => {
                    let found = results.iter().rev().map(|result| field(result, path));
                    let mut found = found.filter(|value| !value.is_null());
                    text += &found.nth(next() as usize)?.to_string();
                }
            }
        }
        Some(text)
    }

    /// The first operation of its name among the calls is a simpler way to do the same.
    pub(super) fn operation(&self) -> &str {
        self.text.split_whitespace().next().unwrap_or_default()
    }

    /// A call, to see whether it fits the recipe.
    pub(super) fn request(&self, mount: &ZnodePath) -> Option<CallRequest> {
        let text = self.with(&[], 1, &[])?;
        let words = words(&text);
        let (operation, rest) = words.split_first().unwrap_or((&"", &[]));
        let rest: Vec<&str> = rest
            .iter()
            .copied()
            .filter(|word| !word.starts_with("--timeout=") && !word.starts_with("--key="))
            .collect();
        Some(CallRequest {
            key: 1,
            mount: mount.clone(),
            operation: (*operation).to_owned(),
            arguments: arguments(&rest),
            timeout_ms: None,
            acknowledged: Acknowledgement::default(),
        })
    }
}

impl Part {
    fn choice(choice: &str, text: &str) -> Result<Part> {
        if choice == "new" {
            return Ok(Part::New);
        }
        if let Some(path) = choice.strip_prefix("got ") {
            return Ok(Part::Got(path.trim().to_owned()));
        }
        if let Some((first, last)) = choice.split_once("..")
            && let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>())
            && let Some(count) = last.checked_sub(first)
            && (0..MAX_NUMBERS).contains(&count)
        {
            let count = u32::try_from(count + 1)?;
            return Ok(Part::Number(first, count));
        }
        let texts: Vec<String> = choice.split('|').map(str::to_owned).collect();
        if texts.len() < 2 {
            bail!(
                "calls: {text:?}: <{choice}> is no choice: write <north|south>, <1..5>, <new> for another text each time, or <got FIELD> for what a client was given before"
            );
        }
        Ok(Part::OneOf(texts))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_has_choices() {
        let call = CallPattern::parse("add <north|south> <1..3> --timeout=<1|5>").unwrap();
        assert_eq!(call.choices().collect::<Vec<_>>(), [2, 3, 2]);
        let text = call.with(&[1, 2, 0], 1, &[]);
        assert_eq!(text.as_deref(), Some("add south 3 --timeout=1"));
        let call = CallPattern::parse("offer jobs <new>").unwrap();
        assert_eq!(call.with(&[], 7, &[]).as_deref(), Some("offer jobs new-7"));
        let call = CallPattern::parse("confirm jobs <got id>").unwrap();
        let given = [json!({"id": "x"}), json!({"id": 5}), json!(null)];
        assert_eq!(
            call.with(&[0], 1, &given).as_deref(),
            Some("confirm jobs 5")
        );
        assert_eq!(
            call.with(&[1], 1, &given).as_deref(),
            Some("confirm jobs \"x\"")
        );
        assert_eq!(call.with(&[2], 1, &given), None);
        for bad in [
            "",
            "<a|b> x",
            "acquire <north",
            "acquire <north>",
            "x <1..99999999>",
        ] {
            assert!(CallPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
