//! Multi: parts behind headers of type, end mark and error, in requests and in responses.

use bytes::Bytes;

use crate::error::ErrorCode;
use crate::jute::{DecodeError, Reader, Record, Writer};
use crate::opcode;
use crate::request::Create;
use crate::stat::Stat;

/// One part of a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiOperation {
    /// Its result has the path.
    Create(Create),
    /// Its result has path and stat, as ZooKeeper's own code reads; ZooKeeper 3.8.0 itself was seen to answer as to a create.
    Create2(Create),
    /// Its result has path and stat. Its flags say container.
    CreateContainer(Create),
    /// Delete a znode.
    Delete {
        /// Which.
        path: String,
        /// Its expected version; -1 for any.
        version: i32,
    },
    /// Set a znode's data.
    SetData {
        /// Which.
        path: String,
        /// The new data.
        data: Bytes,
        /// Its expected version; -1 for any.
        version: i32,
    },
    /// Fail unless the znode is there in that version.
    Check {
        /// Which.
        path: String,
        /// Its expected version; -1 for any.
        version: i32,
    },
}

/// What one part of a multi came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiResult {
    /// Created, under this path.
    Create {
        /// With its number, if sequential.
        path: String,
    },
    /// Created, under this path; containers are answered so too.
    Create2 {
        /// With its number, if sequential.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// Deleted.
    Delete,
    /// Set; the stat afterwards.
    SetData(Stat),
    /// It is there in that version.
    Check,
    /// Not done. The number of the error; 0 for a part before the one that failed.
    Error(i32),
}

impl MultiResult {
    /// The results of a multi of `count` parts of which part `index` (from 0) failed with `code`, as
    /// ZooKeeper tells them: 0 before it, RuntimeInconsistency behind it. The reply's header says no error.
    pub fn failed(count: usize, index: usize, code: ErrorCode) -> Vec<MultiResult> {
        let number = |part: usize| match part.cmp(&index) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => code.number(),
            std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency.number(),
        };
        (0..count)
            .map(|part| MultiResult::Error(number(part)))
            .collect()
    }
}

struct MultiHeader {
    kind: i32,
    done: bool,
    error: i32,
}

impl MultiHeader {
    const END: MultiHeader = MultiHeader {
        kind: opcode::ERROR,
        done: true,
        error: -1,
    };
}

impl Record for MultiHeader {
    fn encode(&self, out: &mut Writer<'_>) {
        out.int(self.kind);
        out.bool(self.done);
        out.int(self.error);
    }

    fn decode(input: &mut Reader<'_>) -> Result<MultiHeader, DecodeError> {
        Ok(MultiHeader {
            kind: input.int()?,
            done: input.bool()?,
            error: input.int()?,
        })
    }
}

/// Appends the parts of a request. They have -1 as their error, as ZooKeeper's clients write it.
pub(crate) fn encode_operations(operations: &[MultiOperation], out: &mut Writer<'_>) {
    for operation in operations {
        let kind = match operation {
            MultiOperation::Create(_) => opcode::CREATE,
            MultiOperation::Create2(_) => opcode::CREATE2,
            MultiOperation::CreateContainer(_) => opcode::CREATE_CONTAINER,
            MultiOperation::Delete { .. } => opcode::DELETE,
            MultiOperation::SetData { .. } => opcode::SET_DATA,
            MultiOperation::Check { .. } => opcode::CHECK,
        };
        MultiHeader {
            kind,
            done: false,
            error: -1,
        }
        .encode(out);
        match operation {
            MultiOperation::Create(create)
            | MultiOperation::Create2(create)
            | MultiOperation::CreateContainer(create) => create.encode(out),
            MultiOperation::Delete { path, version } | MultiOperation::Check { path, version } => {
                out.string(path);
                out.int(*version);
            }
            MultiOperation::SetData {
                path,
                data,
                version,
            } => {
                out.string(path);
                out.buffer(data);
                out.int(*version);
            }
        }
    }
    MultiHeader::END.encode(out);
}

/// Reads the parts of a request. Each takes bytes of the frame, so its size bounds their number.
pub(crate) fn decode_operations(
    input: &mut Reader<'_>,
) -> Result<Vec<MultiOperation>, DecodeError> {
    let mut operations = Vec::new();
    loop {
        let header = MultiHeader::decode(input)?;
        if header.done {
            return Ok(operations);
        }
        operations.push(match header.kind {
            opcode::CREATE => MultiOperation::Create(Create::decode(input)?),
            opcode::CREATE2 => MultiOperation::Create2(Create::decode(input)?),
            opcode::CREATE_CONTAINER => MultiOperation::CreateContainer(Create::decode(input)?),
            opcode::DELETE => MultiOperation::Delete {
                path: input.string()?,
                version: input.int()?,
            },
            opcode::SET_DATA => MultiOperation::SetData {
                path: input.string()?,
                data: input.buffer()?,
                version: input.int()?,
            },
            opcode::CHECK => MultiOperation::Check {
                path: input.string()?,
                version: input.int()?,
            },
            number => {
                return Err(DecodeError::Unknown {
                    what: "operation of a multi",
                    number,
                });
            }
        });
    }
}

/// Appends the parts of a response.
pub(crate) fn encode_results(results: &[MultiResult], out: &mut Writer<'_>) {
    for result in results {
        let (kind, error) = match result {
            MultiResult::Create { .. } => (opcode::CREATE, 0),
            MultiResult::Create2 { .. } => (opcode::CREATE2, 0),
            MultiResult::Delete => (opcode::DELETE, 0),
            MultiResult::SetData(_) => (opcode::SET_DATA, 0),
            MultiResult::Check => (opcode::CHECK, 0),
            MultiResult::Error(number) => (opcode::ERROR, *number),
        };
        MultiHeader {
            kind,
            done: false,
            error,
        }
        .encode(out);
        match result {
            MultiResult::Create { path } => out.string(path),
            MultiResult::Create2 { path, stat } => {
                out.string(path);
                stat.encode(out);
            }
            MultiResult::SetData(stat) => stat.encode(out),
            MultiResult::Error(number) => out.int(*number),
            MultiResult::Delete | MultiResult::Check => {}
        }
    }
    MultiHeader::END.encode(out);
}

/// Reads the parts of a response.
pub(crate) fn decode_results(input: &mut Reader<'_>) -> Result<Vec<MultiResult>, DecodeError> {
    let mut results = Vec::new();
    loop {
        let header = MultiHeader::decode(input)?;
        if header.done {
            return Ok(results);
        }
        results.push(match header.kind {
            opcode::CREATE => MultiResult::Create {
                path: input.string()?,
            },
            opcode::CREATE2 => MultiResult::Create2 {
                path: input.string()?,
                stat: Stat::decode(input)?,
            },
            opcode::DELETE => MultiResult::Delete,
            opcode::SET_DATA => MultiResult::SetData(Stat::decode(input)?),
            opcode::CHECK => MultiResult::Check,
            opcode::ERROR => MultiResult::Error(input.int()?),
            number => {
                return Err(DecodeError::Unknown {
                    what: "result of a multi",
                    number,
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_multi_tells_each_part_its_share() {
        let numbers = MultiResult::failed(4, 1, ErrorCode::NoNode);
        assert_eq!(numbers, [0, -101, -2, -2].map(MultiResult::Error));
    }
}
