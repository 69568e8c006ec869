//! Bodies of requests: bounded in size and time, JSON whatever the client calls it.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::problem::Problem;

/// The longest JSON body: a call's arguments at their longest, and room for the rest.
const MAX_JSON_BYTES: usize = 0xf_ffff + 64 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// How many bytes of an upload arrive in a second, at least: it has one of few places ([`super::MAX_UPLOADS`]). The
/// largest may take two minutes.
pub(crate) const UPLOAD_BYTES_PER_SECOND: usize = 256 << 10;

/// How long an upload may take beside that, for a connection that is slow to begin, or stands still for a moment.
const UPLOAD_GRACE: Duration = Duration::from_secs(5);

/// Reads an upload of at most `limit` bytes, which have to come fast enough.
pub(super) async fn upload(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let begun = Instant::now();
    let mut body = Limited::new(body, limit);
    // Copied as it comes: a piece may be a byte, and would hold on to much more.
    let mut whole = BytesMut::new();
    loop {
        let earned = Duration::from_millis((whole.len() * 1000 / UPLOAD_BYTES_PER_SECOND) as u64);
        let due = begun + UPLOAD_GRACE + earned;
        let Ok(frame) = timeout_at(due, body.frame()).await else {
            let (least, seconds) = (UPLOAD_BYTES_PER_SECOND >> 10, begun.elapsed().as_secs());
            return Err(Problem::too_slow(format!(
                "the recipe comes too slowly: {} bytes of it in {seconds} s, where {least} KiB a second are \
                 wanted from {} s on. Nothing was kept: send it again over a faster connection",
                whole.len(),
                UPLOAD_GRACE.as_secs()
            )));
        };
        match frame {
            None => break,
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    whole.extend_from_slice(&piece);
                }
            }
            Some(Err(error)) => return Err(broken("a recipe", limit, &error)),
        }
    }
    Ok(whole.freeze())
}

fn broken(what: &str, limit: usize, error: &axum::BoxError) -> Problem {
    match error.is::<LengthLimitError>() {
        true => Problem::too_large(what, limit),
        false => Problem::bad_request(format!("{what} broke off: {error}")),
    }
}

/// Reads a body of at most `limit` bytes; `what` names it for people.
async fn read(body: Body, what: &str, limit: usize) -> Result<Bytes, Problem> {
    match timeout(BODY_DEADLINE, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(broken(what, limit, &error)),
        Err(_) => Err(Problem::bad_request(format!(
            "{what} did not arrive within {} s",
            BODY_DEADLINE.as_secs()
        ))),
    }
}

/// Reads a JSON object. What it must look like is `shape`, for people. An empty body is `{}`.
pub(super) async fn json<T: DeserializeOwned>(body: Body, shape: &str) -> Result<T, Problem> {
    let bytes = read(body, "a JSON body", MAX_JSON_BYTES).await?;
    let text = if bytes.is_empty() { b"{}" } else { &bytes[..] };
    if let Some(integer) = long_integer(text) {
        return Err(Problem::bad_request(format!(
            "{integer} has more than 64 bits, and digits of it would be lost: write it as a string, \
             or as a fraction or with an exponent if it need not be exact"
        )));
    }
    serde_json::from_slice(text).map_err(|error| {
        Problem::bad_request(format!("the body does not fit ({error}): expected {shape}"))
    })
}

/// The first integer of a JSON text that does not fit 64 bits: as a number it would become another one.
pub(crate) fn long_integer(json: &[u8]) -> Option<String> {
    let mut rest = json;
    while let Some((&first, after)) = rest.split_first() {
        let length = match first {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => {
                let in_number =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                let length = rest.iter().take_while(|byte| in_number(byte)).count();
                let number = String::from_utf8_lossy(&rest[..length]);
                let digits = number.strip_prefix('-').unwrap_or(&number);
                if digits.bytes().all(|byte| byte.is_ascii_digit())
                    && number.parse::<i64>().is_err()
                    && number.parse::<u64>().is_err()
                    && !digits.is_empty()
                {
                    return Some(number.chars().take(50).collect());
                }
                length
            }
            _ => {
                rest = after;
                continue;
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    None
}

/// From its first quotation mark to behind its last, or to the end of the text.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_beyond_64_bits_are_found() {
        for exact in [
            "{}",
            "[0, -9223372036854775808, 18446744073709551615]",
            r#"{"a": "12345678901234567890123", "b\"": "\\", "c": 1}"#,
            "[1e30, 12345678901234567890123.5, -0.1]",
            r#""unended 12345678901234567890123"#,
            "-",
            "",
        ] {
            assert_eq!(long_integer(exact.as_bytes()), None, "{exact}");
        }
        for (text, found) in [
            ("18446744073709551616", "18446744073709551616"),
            ("[1,-9223372036854775809]", "-9223372036854775809"),
            (
                r#"{"a\\": 12345678901234567890123}"#,
                "12345678901234567890123",
            ),
        ] {
            assert_eq!(long_integer(text.as_bytes()).as_deref(), Some(found));
        }
    }
}
