//! Session tokens: a session's id and password, opaque to clients.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::request::Password;
use quorate_tree::Session;
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;

use super::problem::Problem;
use super::{Http, NO_SESSION_MS};

const ID_BYTES: usize = 8;
const PASSWORD_BYTES: usize = 16;

/// What a client shows for its session.
pub(super) fn encode(session: SessionId, password: &Password) -> String {
    let mut bytes = [0; ID_BYTES + PASSWORD_BYTES];
    bytes[..ID_BYTES].copy_from_slice(&session.0.to_be_bytes());
    bytes[ID_BYTES..].copy_from_slice(&password.0);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(token: &str) -> Option<(SessionId, Password)> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (id, password) = bytes.split_first_chunk::<ID_BYTES>()?;
    let password = <[u8; PASSWORD_BYTES]>::try_from(password).ok()?;
    Some((SessionId(u64::from_be_bytes(*id)), Password(password)))
}

/// How long a server may be behind the one that opened a session.
const OPENED_DEADLINE: Duration = Duration::from_secs(2);

impl Http {
    /// The session that `token` stands for, if it lives and was opened over HTTP (rule W3). To use it is a touch.
    ///
    /// Its id is the transaction that opened it, perhaps at another server: this one waits a while until it has come so far.
    pub(super) async fn session(&self, token: &str) -> Result<(SessionId, Session), Problem> {
        let (id, password) = decode(token).ok_or_else(Problem::session_expired)?;
        let opened = self.edge.watches.reached(Zxid(id.0));
        if timeout(OPENED_DEADLINE, opened).await.is_err() {
            let cut_off = self.edge.silence.is_silent_for(NO_SESSION_MS);
            return Err(match cut_off {
                true => Problem::no_quorum(),
                false => Problem::session_expired(),
            });
        }
        let session = self.state()?.session(id).copied();
        let session = session
            .filter(|session| session.owner.is_none())
            .filter(|session| session.password.0.ct_eq(&password.0).into())
            .ok_or_else(Problem::session_expired)?;
        self.edge.router.touch(id);
        Ok((id, session))
    }

    /// The timeout of the session that `token` names, in milliseconds, as far as it is known here.
    pub(super) fn timeout_ms(&self, token: &str) -> Option<u32> {
        let (id, _) = decode(token)?;
        let session = self.edge.state.read().session(id).copied();
        session.map(|session| session.timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back() {
        let (session, password) = (SessionId(0x1_0000_002a), Password([7; 16]));
        let token = encode(session, &password);
        assert!(
            token
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
        assert_eq!(decode(&token), Some((session, password)));
        for bad in ["", "x", "🦀", &token[1..], &format!("{token}AA")] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
