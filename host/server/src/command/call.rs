//! `quorate call`: an operation of a recipe.

use std::pin::Pin;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use quorate_client::{CallError, Client, ClientError};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Global;
use super::output::{Hint, Output, value_text};
use super::session::{self, SessionTimeout, interrupted};

/// After how long a call that has no answer yet is mentioned.
const WAITING_NOTE_AFTER: Duration = Duration::from_millis(500);

/// Call an operation of a mounted recipe
///
/// Waits as long as the call has to wait its turn; Ctrl-C gives up. The session ends with the command,
/// and with it what it held, unless --hold keeps it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
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
    /// Give up when the call is still waiting after so long
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The key of the call, at least 1, instead of one chosen for it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    key: Option<u64>,
    #[command(flatten)]
    session_timeout: SessionTimeout,
}

const EXAMPLES: &str = r#"Examples:
  quorate call /locks acquire inventory --hold     hold a lock until Ctrl-C
  quorate call /counters add visits 1              two arguments: "visits" and 1
  quorate call /counters add '{"name": "visits", "delta": 1}'
                                                   the same by name
  quorate call /locks holder '"5"'                 a text that looks like a number
  quorate call /x put '[["a", "b"]]'               one argument that is a list"#;

impl Call {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let timeout = self
            .timeout
            .map(|timeout| session::seconds("--timeout", timeout))
            .transpose()?;
        let client = session::open_for(global, self.session_timeout.duration()?).await?;
        // One for both waits: between two, Ctrl-C would be lost.
        let mut interrupted = std::pin::pin!(interrupted());
        let result = self
            .wait(&client, timeout, output, interrupted.as_mut())
            .await;
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                session::close(client).await;
                return Err(explain(error));
            }
        };
        let session = client.session().to_string();
        output.print(
            value_text(&value),
            json!({"result": value, "session": session}),
        )?;
        if self.hold {
            let what = format!("session {session}");
            session::hold(client, output, &what, interrupted).await?;
        } else {
            session::close(client).await;
        }
        Ok(())
    }

    async fn wait(
        &self,
        client: &Client,
        timeout: Option<Duration>,
        output: &Output,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<Value> {
        let mut call = client.call(&self.mount, &self.operation, arguments(&self.arguments));
        if let Some(timeout) = timeout {
            call = call.timeout(timeout);
        }
        if let Some(key) = self.key {
            call = call.key(key);
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
                () = &mut interrupted => bail!("interrupted: the call was given up"),
                () = sleep(WAITING_NOTE_AFTER), if !noted => {
                    noted = true;
                    output.note("waiting for the answer: Ctrl-C gives up", json!({"event": "waiting"}));
                }
            }
        }
    }
}

/// Adds what to do next.
fn explain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Call(CallError::BadCall(_))) => error.context(Hint(
            "`quorate mounts` lists the mounts, `quorate recipe show NAME` a recipe's operations",
        )),
        _ => error,
    }
}

/// The arguments of a call from its words.
fn arguments(words: &[String]) -> Value {
    let parsed = |word: &String| serde_json::from_str::<Value>(word).ok();
    if let [word] = words
        && let Some(all @ (Value::Array(_) | Value::Object(_))) = parsed(word)
    {
        return all;
    }
    words
        .iter()
        .map(|word| parsed(word).unwrap_or_else(|| word.as_str().into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_arguments() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            arguments(&words)
        };
        assert_eq!(of(&[]), json!([]));
        assert_eq!(of(&["inventory"]), json!(["inventory"]));
        assert_eq!(of(&["visits", "1"]), json!(["visits", 1]));
        assert_eq!(of(&["\"5\""]), json!(["5"]));
        assert_eq!(of(&[r#"["a", 1]"#]), json!(["a", 1]));
        assert_eq!(of(&[r#"{"name": "a"}"#]), json!({"name": "a"}));
        assert_eq!(of(&[r#"{"name": "a"}"#, "1"]), json!([{"name": "a"}, 1]));
        assert_eq!(of(&[r#"[["a", "b"]]"#]), json!([["a", "b"]]));
        assert_eq!(of(&["{not json"]), json!(["{not json"]));
    }
}
