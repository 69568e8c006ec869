//! Jute's primitives: big-endian numbers, and buffers, strings and vectors behind a length.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_model::acl::{Acl, AclEntry, Identity};
use thiserror::Error;

/// Why bytes are no record. A server answers Marshalling (-5), or closes where no request can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end within a value.
    #[error("the record ends early: {wanted} more bytes wanted, {left} left")]
    Truncated {
        /// How many bytes the value takes.
        wanted: usize,
        /// How many there are.
        left: usize,
    },
    /// A length or a count below -1, or a number that must not be negative.
    #[error("{0} is negative where it must not be")]
    Negative(i64),
    /// A vector says that it has more elements than its bytes can hold.
    #[error("a vector of {count} elements does not fit into {left} bytes")]
    Vector {
        /// The count that it states.
        count: usize,
        /// How many bytes are left.
        left: usize,
    },
    /// A number that stands for nothing here.
    #[error("{number} is no {what}")]
    Unknown {
        /// What was expected.
        what: &'static str,
        /// What came.
        number: i32,
    },
}

/// A value with a form on the wire.
pub trait Record: Sized {
    /// Appends its bytes.
    fn encode(&self, out: &mut Writer<'_>);
    /// Takes its bytes from the front. What follows them is left, as ZooKeeper leaves it.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Appends values to a buffer.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut BytesMut);

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut BytesMut) -> Writer<'a> {
        Writer(out)
    }

    /// A boolean: one byte.
    pub fn bool(&mut self, value: bool) {
        self.0.put_u8(u8::from(value));
    }

    /// Four bytes.
    pub fn int(&mut self, value: i32) {
        self.0.put_i32(value);
    }

    /// Eight bytes.
    pub fn long(&mut self, value: i64) {
        self.0.put_i64(value);
    }

    /// A length and that many bytes.
    ///
    /// # Panics
    /// Over 2 GiB, which no frame can hold.
    pub fn buffer(&mut self, value: &[u8]) {
        self.length(value.len());
        self.0.put_slice(value);
    }

    /// A length and the text as UTF-8.
    pub fn string(&mut self, value: &str) {
        self.buffer(value.as_bytes());
    }

    /// A count and the elements.
    pub fn vector<T>(&mut self, values: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.length(values.len());
        values.iter().for_each(|value| each(self, value));
    }

    /// A vector of strings.
    pub fn strings(&mut self, values: &[String]) {
        self.vector(values, |out, value| out.string(value));
    }

    /// An access control list.
    pub fn acl(&mut self, acl: &Acl) {
        self.vector(&acl.0, |out, entry| {
            out.int(entry.permissions.cast_signed());
            out.string(&entry.identity.scheme);
            out.string(&entry.identity.id);
        });
    }

    fn length(&mut self, length: usize) {
        let length = i32::try_from(length).expect("what we encode is far smaller than 2 GiB");
        self.int(length);
    }
}

/// [`Acl::open`] on the wire: one entry, all permissions, `world`, `anyone`.
const OPEN_ACL: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";

/// Takes values from the front of a record.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// A boolean: one byte, zero for false.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.array::<1>().map(|[byte]| byte != 0)
    }

    /// Four bytes.
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// Eight bytes that must not be negative: keys and durations of ours.
    pub fn unsigned_long(&mut self) -> Result<u64, DecodeError> {
        let value = self.long()?;
        u64::try_from(value).map_err(|_| DecodeError::Negative(value))
    }

    /// A buffer. Null (length -1) reads as an empty one: a znode of ours has data or has none, not both.
    /// The bytes are copied, so that a znode's data do not keep a connection's read buffer alive.
    pub fn buffer(&mut self) -> Result<Bytes, DecodeError> {
        self.slice().map(Bytes::copy_from_slice)
    }

    /// A string. Null reads as an empty one. What is not UTF-8 reads as U+FFFD, as in Java, and no path
    /// may hold that: so a client that writes surrogates gets BadArguments, not a broken connection.
    pub fn string(&mut self) -> Result<String, DecodeError> {
        self.slice()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A vector whose elements take at least `least` bytes each, so that a lying count takes no memory. Null reads as an empty one.
    pub fn vector<T>(
        &mut self,
        least: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.length()?;
        if count > self.left() / least {
            let left = self.left();
            return Err(DecodeError::Vector { count, left });
        }
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(each(self)?);
        }
        Ok(values)
    }

    /// A vector of strings.
    pub fn strings(&mut self) -> Result<Vec<String>, DecodeError> {
        self.vector(4, Reader::string)
    }

    /// An access control list; may be empty, which the server refuses as InvalidACL.
    pub fn acl(&mut self) -> Result<Acl, DecodeError> {
        // Nearly every list is this one: it is not made anew each time.
        if let Some(rest) = self.0.strip_prefix(OPEN_ACL) {
            self.0 = rest;
            return Ok(Acl::open());
        }
        let entry = |input: &mut Self| {
            Ok(AclEntry {
                permissions: input.int()?.cast_unsigned(),
                identity: Identity {
                    scheme: input.string()?,
                    id: input.string()?,
                },
            })
        };
        self.vector(12, entry).map(Acl::from)
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        match self.int()? {
            -1 => Ok(0),
            length => usize::try_from(length).map_err(|_| DecodeError::Negative(length.into())),
        }
    }

    fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        let Some((taken, rest)) = self.0.split_at_checked(length) else {
            return Err(DecodeError::Truncated {
                wanted: length,
                left: self.left(),
            });
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated {
                wanted: N,
                left: self.left(),
            });
        };
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_reads_as_empty() {
        let null = (-1_i32).to_be_bytes();
        assert_eq!(Reader::new(&null).buffer(), Ok(Bytes::new()));
        assert_eq!(Reader::new(&null).string(), Ok(String::new()));
        assert_eq!(Reader::new(&null).strings(), Ok(vec![]));
        assert_eq!(Reader::new(&null).acl(), Ok(Acl::from(vec![])));
    }

    #[test]
    fn a_lying_length_is_an_error_and_takes_no_memory() {
        let lie = i32::MAX.to_be_bytes();
        let wanted = i32::MAX as usize;
        assert_eq!(
            Reader::new(&lie).buffer(),
            Err(DecodeError::Truncated { wanted, left: 0 })
        );
        assert_eq!(
            Reader::new(&lie).strings(),
            Err(DecodeError::Vector {
                count: wanted,
                left: 0
            })
        );
        let negative = (-2_i32).to_be_bytes();
        assert_eq!(
            Reader::new(&negative).buffer(),
            Err(DecodeError::Negative(-2))
        );
        assert_eq!(
            Reader::new(&negative).strings(),
            Err(DecodeError::Negative(-2))
        );
    }

    #[test]
    fn what_is_not_utf8_becomes_a_character_that_no_path_may_have() {
        // U+1F600 as two surrogates of three bytes each, which is what ZooKeeper's Java client writes.
        let text = Reader::new(b"\0\0\0\x07/\xed\xa0\xbd\xed\xb8\x80")
            .string()
            .unwrap();
        assert!(text.starts_with("/\u{fffd}"), "{text:?}");
        assert!(quorate_model::path::ZnodePath::parse(&text).is_err());
    }
}
