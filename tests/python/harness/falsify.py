"""Rewrites an entry in the log of a server that is stopped."""

import struct
import zlib
from pathlib import Path

from harness.servers import QuorateServer

#: Of a log's segment, and of a record in it: see host/consensus/src/log/record.rs.
SEGMENT_HEAD, RECORD_HEAD = 16, 21


def falsify(server: QuorateServer, right: bytes, wrong: bytes) -> None:
    """Writes ``wrong`` for ``right``, as long, in the one entry that has it; the checksums fit."""
    found = 0
    for segment in Path(server.data_dir).rglob("*.log"):
        log, at = bytearray(segment.read_bytes()), SEGMENT_HEAD
        while at + RECORD_HEAD <= len(log):
            length = struct.unpack_from("<I", log, at)[0]
            begin, end = at + RECORD_HEAD, at + RECORD_HEAD + length
            if right in log[begin:end]:
                found += 1
                log[begin:end] = log[begin:end].replace(right, wrong)
                struct.pack_into("<I", log, at + 13, zlib.crc32(log[begin:end]))
                position = int(segment.stem) + at
                head = struct.pack("<Q", position) + bytes(log[at : at + 17])
                struct.pack_into("<I", log, at + 17, zlib.crc32(head))
            at = end
        segment.write_bytes(log)
    assert found == 1, f"{found} entries"
