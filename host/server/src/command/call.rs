//! `quorate call`: an operation of a recipe.
//! What the command does beside that is in `parked.rs`.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use quorate_client::{CallError, Client, ClientError};
use quorate_model::path::ZnodePath;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::output::{Hint, Output, value_text};
use super::session::{self, Interrupted, SessionEnded, SessionTimeout, interrupted};
use super::{Global, Usage, trial};
use crate::http::body::long_integer;

/// After how long a call that has no answer yet is mentioned.
const WAITING_NOTE_AFTER: Duration = Duration::from_millis(500);

/// A call to be made.
#[derive(Args, Debug)]
pub(super) struct Call {
    /// Where the recipe is mounted
    mount: String,
    /// The operation; `quorate recipe show NAME` lists them
    operation: String,
    /// Arguments: each as JSON or a bare word, or all in one JSON array or object
    #[arg(allow_negative_numbers = true)]
    arguments: Vec<String>,
    /// Keep the session after the answer, and so the lock, until Ctrl-C
    #[arg(long)]
    hold: bool,
    /// Show what the call would do, in a session of its own, and keep nothing of it
    #[arg(long, conflicts_with_all = ["hold", "timeout"])]
    dry_run: bool,
    /// Write down all that the dry run was told, for `quorate recipe replay`
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    record: Option<PathBuf>,
    /// Give up when the call is still waiting after so long
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    // Not flattened: clap does not see an optional group of arguments that has another one in it.
    /// How long the session outlives this command if it is killed, and so its locks and ephemeral znodes
    #[arg(long, value_name = "SECONDS", default_value_t = SessionTimeout::default().seconds())]
    session_timeout: f64,
}

pub(super) const EXAMPLES: &str = r#"Examples:
  quorate call /locks acquire inventory --hold     hold a lock until Ctrl-C
  quorate call /counters add visits 1              two arguments: "visits" and 1
  quorate call /counters add '{"name": "visits", "amount": 1}'
                                                   the same by name
  quorate call /locks holder '"5"'                 a text that looks like a number
  quorate call /jobs add '[["a", "b"]]'            one argument that is a list
  quorate call /counters add visits 1 --dry-run    what it would do, and nothing of it

/locks is a mount of fair-lock, /counters of counter; /jobs would be one of a recipe of your own."#;

impl Call {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let timeout = self
            .timeout
            .map(|timeout| session::seconds("--timeout", timeout))
            .transpose()?;
        let arguments = arguments(&self.arguments)?;
        ZnodePath::parse(&self.mount).map_err(ClientError::from)?;
        if self.dry_run {
            let what = (&*self.mount, &*self.operation);
            return trial::call(global, output, what, &arguments, self.record.as_deref()).await;
        }
        let client =
            session::open_for(global, SessionTimeout::of(self.session_timeout).duration()?).await?;
        // One for both waits: between two, Ctrl-C would be lost.
        let mut interrupted = std::pin::pin!(interrupted());
        let result = self
            .wait(&client, arguments, timeout, output, interrupted.as_mut())
            .await;
        let within = session::timeout_text(&client);
        let value = match result {
            Ok(value) => value,
            Err(Failure::Client(error)) => {
                let error = self.explain(error, &client);
                session::close(client).await;
                return Err(error);
            }
            Err(Failure::Interrupted) => {
                let why = match session::close(client).await {
                    true => "the call was given up".to_owned(),
                    false => format!(
                        "the server does not answer, so it is not known whether the call was executed; \
                         its session, and what it holds, ends after its timeout of {within}"
                    ),
                };
                return Err(Interrupted(why).into());
            }
        };
        let session = client.session();
        output.print(
            value_text(&value),
            json!({"result": value, "session": session.to_string(), "session_number": session.0}),
        )?;
        if self.hold {
            let what = format!("session {session} (as a number {})", session.0);
            let lost = "the lock, or whatever else it held, is no longer held";
            return session::hold(client, output, &what, lost, interrupted).await;
        }
        let is_closed = session::close(client).await;
        if is_grant(&value, session.0) {
            let when = match is_closed {
                true => "has ended".to_owned(),
                false => format!("ends after its timeout of {within}"),
            };
            output.note(
                format!(
                    "the call's session {when}, and with it what it was granted: --hold keeps it"
                ),
                json!({"event": "session-closed"}),
            );
        }
        Ok(())
    }

    async fn wait(
        &self,
        client: &Client,
        arguments: Value,
        timeout: Option<Duration>,
        output: &Output,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Value, Failure> {
        let mut call = client.call(&self.mount, &self.operation, arguments);
        if let Some(timeout) = timeout {
            call = call.timeout(timeout);
        }
        let mut call = call.into_future();
        let mut ended = std::pin::pin!(session::ended(client, output));
        // Answers usually come at once: then a note would be noise.
        let mut noted = false;
        loop {
            tokio::select! {
                biased;
                result = &mut call => return Ok(result?),
                error = &mut ended => return Err(error.into()),
                () = &mut interrupted => return Err(Failure::Interrupted),
                () = sleep(WAITING_NOTE_AFTER), if !noted => {
                    noted = true;
                    output.note("waiting for the answer: Ctrl-C gives up", json!({"event": "waiting"}));
                }
            }
        }
    }

    /// Adds what to do next.
    fn explain(&self, error: ClientError, client: &Client) -> anyhow::Error {
        let hint = match &error {
            ClientError::SessionExpired => {
                let lost = "the call has ended without an answer, and what it had created is gone";
                return SessionEnded::expired(client, lost).into();
            }
            ClientError::Call(CallError::BadCall(message)) => self.hint(message),
            _ => return error.into(),
        };
        anyhow::Error::from(error).context(Hint(hint))
    }

    /// What to do about a call that does not fit.
    fn hint(&self, message: &str) -> String {
        if message.starts_with("nothing is mounted") {
            return format!(
                "`quorate mounts` lists the mounts, `quorate mount {} RECIPE` makes one",
                self.mount
            );
        }
        // What the shell takes away is the commonest mistake with texts.
        let is_no_text = |word: &&String| {
            serde_json::from_str::<Value>(word)
                .is_ok_and(|value| value.is_number() || value.is_boolean() || value.is_null())
        };
        match self.arguments.iter().find(is_no_text) {
            Some(word) if message.contains("string") => {
                format!("{word} is no text in JSON: for the text, write '\"{word}\"'")
            }
            _ => "`quorate mounts` lists the mounts, `quorate recipe show NAME` a recipe's operations"
                .into(),
        }
    }
}

/// Whether the answer says that the session `us` holds something now, for as long as it lives. By the shape that the
/// standard recipes have in common, as nothing else tells: a fencing token, no word of another session that holds it, and
/// none of a time at which it ends, as a lease has it, whatever becomes of the session.
fn is_grant(answer: &Value, us: u64) -> bool {
    let holder = answer.get("session");
    answer.get("token").is_some()
        && answer.get("expires").is_none()
        && holder.is_none_or(|holder| holder.as_u64() == Some(us))
}

/// Why there is no answer.
enum Failure {
    Client(ClientError),
    Interrupted,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

/// The arguments of a call from its words.
fn arguments(words: &[String]) -> Result<Value, Usage> {
    let mut arguments = words
        .iter()
        .map(|word| argument(word))
        .collect::<Result<Vec<Value>, Usage>>()?;
    match &mut arguments[..] {
        [all @ (Value::Array(_) | Value::Object(_))] => Ok(all.take()),
        _ => Ok(arguments.into()),
    }
}

/// JSON, or a text without its quotation marks.
fn argument(word: &str) -> Result<Value, Usage> {
    match serde_json::from_str(word) {
        Ok(value) => match long_integer(word.as_bytes()) {
            None => Ok(value),
            Some(integer) => Err(Usage(format!(
                "{integer} has more than 64 bits and would lose digits: write it as a text, '\"{integer}\"'"
            ))),
        },
        Err(error) if word.starts_with(['{', '[', '"']) => Err(Usage(format!(
            "the argument {word} begins as JSON does, but is none: {error}; if it is meant as a text, write {}",
            shell_quoted(&Value::from(word).to_string())
        ))),
        Err(_) => Ok(word.into()),
    }
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_arguments() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            arguments(&words).map_err(|usage| usage.0)
        };
        assert_eq!(of(&[]), Ok(json!([])));
        assert_eq!(of(&["inventory"]), Ok(json!(["inventory"])));
        assert_eq!(of(&["visits", "1"]), Ok(json!(["visits", 1])));
        assert_eq!(of(&["\"5\""]), Ok(json!(["5"])));
        assert_eq!(of(&[r#"["a", 1]"#]), Ok(json!(["a", 1])));
        assert_eq!(of(&[r#"{"name": "a"}"#]), Ok(json!({"name": "a"})));
        assert_eq!(
            of(&[r#"{"name": "a"}"#, "1"]),
            Ok(json!([{"name": "a"}, 1]))
        );
        assert_eq!(of(&[r#"[["a", "b"]]"#]), Ok(json!([["a", "b"]])));
        assert_eq!(of(&["v1.2", "a{b"]), Ok(json!(["v1.2", "a{b"])));
        let digits = "x18446744073709551616";
        assert_eq!(of(&[digits]), Ok(json!([digits])));
    }

    #[test]
    fn a_grant_is_not_the_news_of_one() {
        assert!(is_grant(&json!({"holds": 1, "token": 5}), 7));
        assert!(is_grant(&json!({"session": 7, "token": 5}), 7));
        assert!(!is_grant(&json!({"session": 8, "token": 5}), 7));
        assert!(!is_grant(&json!({"token": 5, "expires": 9}), 7));
        for other in [json!(1), json!(null), json!("token"), json!({"a": 1})] {
            assert!(!is_grant(&other, 7), "{other}");
        }
    }

    #[test]
    fn what_begins_as_json_and_is_none_is_refused() {
        for bad in [
            "{not json",
            r#"{"name":"#,
            "[1,",
            r#""open"#,
            "18446744073709551616",
        ] {
            assert!(arguments(&["visits".into(), bad.into()]).is_err(), "{bad}");
        }
        let refused = argument("{it's").unwrap_err().0;
        assert!(refused.ends_with(r#"write '"{it'\''s"'"#), "{refused}");
    }
}
