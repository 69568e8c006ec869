//! Frames: four bytes of length, then the record; and what a connection may begin with instead.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::jute::Writer;

/// The longest frame that a server takes, in bytes without the length: ZooKeeper's default
/// `jute.maxbuffer`, and room beside data of that size for a path, an access control list or a call's names.
pub const MAX_FRAME_BYTES: usize = 0xf_ffff + 64 * 1024;

/// The length that precedes a frame.
const LENGTH_BYTES: usize = 4;

/// What a frame's length says is wrong; the connection is closed, as ZooKeeper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Larger than the receiver takes.
    #[error("a frame of {length} bytes is longer than the {limit} that are taken")]
    TooLong {
        /// Its stated length.
        length: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A negative length.
    #[error("a frame cannot have a length of {0}")]
    Negative(i32),
}

/// Takes the next whole frame off the front of `buffer`; none if it has not all arrived.
///
/// A length above `limit` is refused before a byte of the frame is waited for. Nothing is reserved
/// for a frame that has only been announced: `buffer` grows as bytes come.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(head) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let stated = i32::from_be_bytes(*head);
    let length = usize::try_from(stated).map_err(|_| FrameError::Negative(stated))?;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Appends one frame to `out`: its length, and what `body` writes.
///
/// # Panics
/// If `body` writes 2 GiB or more: callers bound what they encode far below.
pub fn encode(out: &mut BytesMut, body: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    out.put_i32(0);
    body(&mut Writer::new(out));
    let length = i32::try_from(out.len() - start - LENGTH_BYTES)
        .expect("what we encode is far smaller than 2 GiB");
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// ZooKeeper's administrative commands. They stand where a frame's length would, and as one they
/// would be over a gigabyte, so they cannot be taken for a handshake.
pub const FOUR_LETTER_WORDS: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst",
    "srvr", "stat", "stmk", "wchc", "wchp", "wchs",
];

/// The four-letter word that a connection begins with, if it does. Ask once four bytes are there.
pub fn four_letter_word(buffer: &[u8]) -> Option<&'static str> {
    let head = buffer.first_chunk::<LENGTH_BYTES>()?;
    FOUR_LETTER_WORDS
        .into_iter()
        .find(|word| word.as_bytes() == head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_out_once_it_is_whole() {
        let mut whole = BytesMut::new();
        encode(&mut whole, |out| out.string("hello"));
        encode(&mut whole, |_| {});
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in whole {
            buffer.put_u8(byte);
            while let Some(frame) = decode(&mut buffer, 100).unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [&b"\0\0\0\x05hello"[..], b""]);
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_length_alone() {
        let limit = 10;
        let mut at_limit = BytesMut::from(&b"\0\0\0\x0a"[..]);
        assert_eq!(decode(&mut at_limit, limit), Ok(None));
        let mut above = BytesMut::from(&b"\0\0\0\x0b"[..]);
        assert_eq!(
            decode(&mut above, limit),
            Err(FrameError::TooLong { length: 11, limit })
        );
        let mut negative = BytesMut::from(&b"\xff\xff\xff\xff"[..]);
        assert_eq!(decode(&mut negative, limit), Err(FrameError::Negative(-1)));
    }

    #[test]
    fn words_are_no_lengths() {
        assert_eq!(four_letter_word(b"ruok\n"), Some("ruok"));
        assert_eq!(four_letter_word(b"ruo"), None);
        assert_eq!(four_letter_word(b"\0\0\0\x2d"), None);
        for word in FOUR_LETTER_WORDS {
            let mut buffer = BytesMut::from(word.as_bytes());
            assert!(decode(&mut buffer, MAX_FRAME_BYTES).is_err(), "{word}");
        }
    }
}
