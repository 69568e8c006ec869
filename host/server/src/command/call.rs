//! `quorate call`: an operation of a recipe.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use quorate_client::{CallError, Client, ClientError};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Global;
use super::output::{Output, value_text};
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
        let result = self.wait(&client, timeout, output).await;
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                session::close(client).await;
                return Err(self.explain(error));
            }
        };
        let session = client.session().to_string();
        let text = match &value {
            Value::Null => "done".to_owned(),
            value => value_text(value),
        };
        output.print(text, json!({"result": value, "session": session}))?;
        if self.hold {
            let what = format!("session {session}");
            session::hold(client, output, &what).await?;
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
    ) -> anyhow::Result<Value> {
        let mut call = client.call(&self.mount, &self.operation, arguments(&self.arguments));
        if let Some(timeout) = timeout {
            call = call.timeout(timeout);
        }
        if let Some(key) = self.key {
            call = call.key(key);
        }
        let call = call.into_future();
        tokio::pin!(call);
        // Answers usually come at once: then a note would be noise.
        let mut noted = false;
        let watched = session::ended(client, output);
        tokio::pin!(watched);
        loop {
            tokio::select! {
                biased;
                result = &mut call => return Ok(result?),
                error = &mut watched => return Err(error.into()),
                () = interrupted() => bail!("interrupted: the call was given up"),
                () = sleep(WAITING_NOTE_AFTER), if !noted => {
                    noted = true;
                    output.note("waiting for the answer: Ctrl-C gives up", json!({"event": "waiting"}));
                }
            }
        }
    }

    /// Adds what to do next, where the command line knows more than the client.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Call(CallError::BadCall(_))) => {
                let hint = "`quorate mounts` lists the mounts, `quorate recipe show NAME` a recipe's operations";
                let message = format!("{error}\n{hint}");
                error.context(message)
            }
            _ => error,
        }
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
