//! What is printed: for people by default, one JSON document per line for programs.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quorate_client::{CallError, ClientError, ErrorCode, Stat};
use quorate_sandbox::{ReadyError, UploadError};
use serde_json::{Map, Value, json};

use super::Usage;
use super::session::{Interrupted, SessionEnded};

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Output {
        Output { json }
    }

    /// Whether people read it.
    pub(super) fn is_for_people(&self) -> bool {
        !self.json
    }

    /// A result: `text` for people, `document` for programs.
    pub(super) fn print(&self, text: impl Display, document: impl Into<Value>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", document.into())?;
        } else {
            writeln!(out, "{text}")?;
        }
        // A pipe is not flushed by lines, and whoever reads a watch waits for each.
        out.flush()
    }

    /// A znode's data: as they are into a file or a pipe, with an end of line on a terminal.
    pub(super) fn print_data(&self, data: &[u8], document: Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{document}")?;
        } else {
            out.write_all(data)?;
            if out.is_terminal() && !data.ends_with(b"\n") {
                writeln!(out)?;
            }
        }
        out.flush()
    }

    /// What goes on, on standard error, so that results stay clean. Programs get a document there too.
    pub(super) fn note(&self, text: impl Display, document: Value) {
        // Nobody is there to be told of a failure to tell.
        let _ = if self.json {
            writeln!(io::stderr(), "{document}")
        } else {
            writeln!(io::stderr(), "{text}")
        };
    }

    /// Why it failed, and what to do.
    pub(super) fn failure(&self, error: &anyhow::Error) {
        let given = error.downcast_ref::<Hint>();
        let causes = error.chain().skip(usize::from(given.is_some()));
        let message: Vec<String> = causes.map(ToString::to_string).collect();
        let message = message.join(": ");
        let mut document = json!({"error": {"code": code(error), "message": message}});
        let mut text = format!("quorate: {message}");
        if let Some(hint) = given.map_or_else(|| usual_hint(error), |Hint(hint)| Some(&**hint)) {
            document["error"]["hint"] = hint.into();
            text += &format!("\n  {hint}");
        }
        self.note(text, document);
    }
}

/// What to do about a failure, where the command line knows more than the client. A context of the error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Hint(pub(super) String);

/// What to do about failures that many commands have.
fn usual_hint(error: &anyhow::Error) -> Option<&'static str> {
    let ClientError::Refused { code, .. } = error.downcast_ref()? else {
        return None;
    };
    match &**code {
        "no-recipe" => {
            Some("`quorate recipe list` lists the recipes, `quorate recipe push FILE` adds one")
        }
        "not-mounted" => {
            Some("`quorate mounts` lists the mounts, `quorate mount PATH RECIPE` makes one")
        }
        _ => None,
    }
}

/// Whether the reader of the output has gone.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A name of the failure for programs.
fn code(error: &anyhow::Error) -> String {
    if error.downcast_ref::<Usage>().is_some() {
        return "usage".into();
    }
    if error.downcast_ref::<SessionEnded>().is_some() {
        return "session-expired".into();
    }
    if error.downcast_ref::<Interrupted>().is_some() {
        return "interrupted".into();
    }
    if error.is::<UploadError>() || error.is::<ReadyError>() {
        return "bad-recipe".into();
    }
    let Some(error) = error.downcast_ref::<ClientError>() else {
        return "failed".into();
    };
    match error {
        ClientError::NoServer { .. } | ClientError::NoHttp { .. } => "no-server",
        ClientError::NoSession { .. } => "no-session",
        ClientError::ProofRefused { .. } => "proof-refused",
        ClientError::BadServers { .. } => "bad-servers",
        ClientError::ConnectionLost => "connection-lost",
        ClientError::NoAnswer(_) => "no-answer",
        ClientError::SessionExpired => "session-expired",
        ClientError::SessionMoved => "session-moved",
        ClientError::Closed => "closed",
        ClientError::Path(_) => "bad-path",
        ClientError::NoParent { .. } => "no-node",
        ClientError::Znode { code, .. }
        | ClientError::Multi { code, .. }
        | ClientError::Denied { code, .. } => return kebab(*code),
        ClientError::TooLarge { .. } => "too-large",
        ClientError::NoCalls => "no-calls",
        ClientError::Protocol(_) => "protocol",
        ClientError::Refused { code, .. } => return code.clone(),
        ClientError::Call(error) => match error {
            CallError::Failed(_) => "failed",
            CallError::Refused(_) => "refused",
            CallError::Trapped(_) => "trapped",
            CallError::Exceeded { .. } => "exceeded",
            CallError::Cancelled => "cancelled",
            CallError::TimedOut => "timed-out",
            CallError::Unmounted(_) => "unmounted",
            CallError::BadCall(_) => "bad-call",
            CallError::NotReady(_) => "not-ready",
        },
    }
    .into()
}

/// `NoNode` as `no-node`.
fn kebab(code: ErrorCode) -> String {
    let mut name = String::new();
    for c in code.name().chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// A znode's data in a document: as text if they are, else in base64.
pub(super) fn with_data(mut document: Value, data: &[u8]) -> Value {
    match std::str::from_utf8(data) {
        Ok(text) => document["data"] = text.into(),
        Err(_) => document["data_base64"] = BASE64_STANDARD.encode(data).into(),
    }
    document
}

/// A stat with ZooKeeper's names.
pub(super) fn stat_document(stat: &Stat) -> Value {
    let fields: Map<String, Value> = stat_fields(stat)
        .into_iter()
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect();
    fields.into()
}

/// A stat for people, a line each.
pub(super) fn stat_lines(stat: &Stat) -> String {
    let lines: Vec<String> = stat_fields(stat)
        .into_iter()
        .map(|(name, number)| match name {
            "czxid" | "mzxid" | "pzxid" | "ephemeralOwner" => format!("{name} = {number:#x}"),
            "ctime" | "mtime" => format!("{name} = {number} ms since 1970"),
            _ => format!("{name} = {number}"),
        })
        .collect();
    lines.join("\n")
}

fn stat_fields(stat: &Stat) -> [(&'static str, i64); 11] {
    [
        ("czxid", stat.czxid),
        ("mzxid", stat.mzxid),
        ("pzxid", stat.pzxid),
        ("ctime", stat.ctime),
        ("mtime", stat.mtime),
        ("version", stat.version.into()),
        ("cversion", stat.cversion.into()),
        ("aversion", stat.aversion.into()),
        ("ephemeralOwner", stat.ephemeral_owner),
        ("dataLength", stat.data_length.into()),
        ("numChildren", stat.num_children.into()),
    ]
}

/// JSON for people: a text as it is, a composite on several lines.
pub(super) fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => format!("{value:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_names_for_programs() {
        let no_node = ClientError::Znode {
            path: "/a".into(),
            code: ErrorCode::NoNode,
        };
        assert_eq!(code(&no_node.into()), "no-node");
        let children = ErrorCode::NoChildrenForEphemerals;
        assert_eq!(kebab(children), "no-children-for-ephemerals");
        assert_eq!(code(&Usage("x".into()).into()), "usage");
        assert_eq!(code(&anyhow::anyhow!("x")), "failed");
    }

    #[test]
    fn data_that_are_no_text_go_as_base64() {
        assert_eq!(with_data(json!({}), b"x"), json!({"data": "x"}));
        assert_eq!(
            with_data(json!({}), b"\xff"),
            json!({"data_base64": "/w=="})
        );
    }
}
