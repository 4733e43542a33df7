# SPDX-License-Identifier: Apache-2.0
"""The format of a segment on the drive: pure encoding and decoding, no device in sight.

A segment is a power of two of bytes. It is written once from front to back, then sealed, then one day evicted and
given to a new segment with a higher sequence number::

    0                      4 KiB                              tail                              end
    +----------------------+----------+----------+-----------+------------+---------+----------+
    | segment header, 64 B | record 0 | record 1 |    ...    | (not used) | footer  | trailer  |
    | and zeros            |          |          |           |            | entries | 64 B     |
    +----------------------+----------+----------+-----------+------------+---------+----------+
                                                                           written when it is sealed

Every checksum in a segment is seeded with its ``seed``, a hash of the store's uuid and the segment's sequence
number. What an earlier life of the same space left behind therefore never passes for a record of this one, and
nobody outside can put bytes into a value that would.

Integers are little-endian. Records are aligned to 64 bytes, or to what the drive asks for (4 KiB in direct mode).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from mmap import mmap
from typing import Final

import numpy as np
import xxhash

UNIT_BYTES: Final = 64  # offsets and lengths in entries and in the index count these
UNIT_SHIFT: Final = 6
MASK64: Final = (1 << 64) - 1


class SegmentState(IntEnum):
    """One byte; the codes differ in four bits each, so that no single flipped bit turns one into another."""

    NEVER_USED = 0x00
    OPEN = 0x0F
    SEALED = 0x33
    FREE = 0x55


# Segment header, at offset 0:
#
#     0        8           9        16         24           32           40           48        56        64
#     +--------+-----------+--------+----------+------------+------------+------------+---------+---------+
#     | magic  | state u8  | zeros  | sequence | oldest     | opened at  | check      | zeros   | zeros   |
#     | 8 B    |           | 7 B    | u64      | sequence   | u64, unix  | u64        |         |         |
#     +--------+-----------+--------+----------+------------+------------+------------+---------+---------+
#
# ``check`` covers magic, sequence, oldest sequence and time; the state changes in place, by one byte, last.
# ``oldest sequence``: when this segment was opened, every segment before that one had been given up.
SEGMENT_HEADER: Final = struct.Struct("<8sB7xQQQQ16x")
SEGMENT_MAGIC: Final = b"MEMKVSEG"
SEGMENT_STATE_AT: Final = 8
SEGMENT_DATA_AT: Final = 4096
_SEGMENT_CHECKED: Final = struct.Struct("<8sQQQ")

# Record header, at the record's start; ``front`` is the first 32 bytes, ``body`` is what follows:
#
#     0         4          5       8              16               24               32
#     +---------+----------+-------+--------------+----------------+----------------+
#     | magic   | state u8 | zeros | sequence u64 | commit check   | header check   |   front
#     | u32     |          |       |              | u64            | u64            |
#     +---------+----------+-------+--------------+----------------+----------------+
#     32               40           56              60            62            64      65       72
#     +----------------+------------+---------------+-------------+-------------+-------+-------+
#     | namespace hash | digest     | value length  | meta length | key length  | kind  | stamp |   body
#     | u64            | 16 B       | u32           | u16         | u16         | u8    | 7 B   |
#     +----------------+------------+---------------+-------------+-------------+-------+-------+
#     | key            | meta            | zeros to the alignment                             |   body
#     +----------------+-----------------+----------------------------------------------------+
#     | payload, and what is left of it to the alignment                                     |
#     +---------------------------------------------------------------------------------------+
#
# ``header check`` covers the whole body (key and meta with it) and is written when space is reserved, so that a scan
# can always step over a record. ``sequence`` and ``commit check`` are written when the record is committed, and
# after them the state, a single byte: a process that dies between any two instructions leaves a record that is
# either reserved or committed. The key's hash is not stored: it follows from namespace hash and key.
#
# ``stamp`` is 0 in durability "relaxed". In "strict" it is one more than the sequence of the newest record that was
# known to be on the medium when this one was reserved. After a power loss the stamps that are found tell a record
# that was acknowledged and is damaged from one that was under way, see ``recovery.py``.
RECORD_MAGIC: Final = 0x524B4D02  # in memory: 02 'M' 'K' 'R'
RECORD_FRONT: Final = struct.Struct("<IB3xQQQ")
RECORD_BODY: Final = struct.Struct("<Q16sIHHQ")  # the last: kind | stamp << STAMP_SHIFT
RECORD_HEADER: Final = struct.Struct("<IB3xQQQQ16sIHHB7x")
STAMP_SHIFT: Final = 8
_STAMP: Final = struct.Struct("<Q")
_STAMP_AT: Final = 64
RECORD_COMMIT: Final = struct.Struct("<QQ")  # sequence and commit check, at RECORD_COMMIT_AT
RECORD_STATE_AT: Final = 4
RECORD_COMMIT_AT: Final = 8
RECORD_BODY_AT: Final = RECORD_FRONT.size
RECORD_HEADER_BYTES: Final = RECORD_HEADER.size
assert RECORD_FRONT.size == 32
assert RECORD_BODY.size == 40
assert RECORD_HEADER.size == 72


class RecordState(IntEnum):
    """One byte; see ``SegmentState`` for the codes."""

    RESERVED = 0x0F
    COMMITTED = 0x33
    TOMBSTONE = 0x55


# Footer entry, one per committed record or tombstone, and the trailer in the segment's last 64 bytes:
#
#     0          16               24             32           36             40         41      48
#     +----------+----------------+--------------+------------+--------------+----------+-------+
#     | key hash | namespace hash | sequence u64 | offset u32 | length u32   | state u8 | zeros |
#     | 16 B     | u64            |              | in units   | in units     |          |       |
#     +----------+----------------+--------------+------------+--------------+----------+-------+
#     0        8            16            20          24               32              40       64
#     +--------+------------+-------------+-----------+----------------+---------------+--------+
#     | magic  | sequence   | entry count | tail u32  | entries check  | trailer check | zeros  |
#     | 8 B    | u64        | u32         | in units  | u64            | u64           |        |
#     +--------+------------+-------------+-----------+----------------+---------------+--------+
ENTRY: Final = struct.Struct("<16sQQIIB7x")
ENTRY_BYTES: Final = ENTRY.size
ENTRY_DTYPE: Final = np.dtype(
    [
        ("key_hash", "V16"),
        ("namespace_hash", "<u8"),
        ("sequence", "<u8"),
        ("offset", "<u4"),
        ("length", "<u4"),
        ("state", "u1"),
        ("zeros", "V7"),
    ]
)
TRAILER: Final = struct.Struct("<8sQIIQQ24x")
TRAILER_MAGIC: Final = b"MEMKVEND"
TRAILER_BYTES: Final = TRAILER.size
_TRAILER_CHECKED: Final = struct.Struct("<8sQIIQ")
assert ENTRY_BYTES == ENTRY_DTYPE.itemsize == 48
assert TRAILER_BYTES == UNIT_BYTES
assert SEGMENT_HEADER.size == UNIT_BYTES

SEQUENCE_FACTOR: Final = 0x9E37_79B9_7F4A_7C15  # odd: a changed bit of the sequence always changes the check
STATE_FACTOR: Final = 0xC2B2_AE3D_27D4_EB4F

xxh3_64 = xxhash.xxh3_64_intdigest
hash_key = xxhash.xxh3_128_digest
"""``hash_key(key, namespace.hash)``: the 16 bytes a key goes by in the index and in footers."""


def _sha256_128(payload: memoryview) -> bytes:
    return hashlib.sha256(payload).digest()[:16]


DIGESTS: Final[dict[int, Callable[[memoryview], bytes]]] = {0: xxhash.xxh3_128_digest, 1: _sha256_128}
"""Digest kind, as on the wire, to the function over a value's bytes; 16 bytes each."""


def segment_seed(uuid: bytes, sequence: int) -> int:
    """The seed of every checksum in the segment with this sequence number of this store."""
    return xxh3_64(uuid, sequence)


def commit_check(header_check: int, sequence: int, state: int) -> int:
    """Ties a record's sequence and state to its header; arithmetic, since it is taken for every put."""
    return (header_check + sequence * SEQUENCE_FACTOR + state * STATE_FACTOR) & MASK64


def record_layout(key_bytes: int, meta_bytes: int, value_bytes: int, alignment: int) -> tuple[int, int]:
    """Where the payload begins, and how long the whole record is, in bytes from the record's start."""
    mask = alignment - 1
    payload_at = (RECORD_HEADER_BYTES + key_bytes + meta_bytes + mask) & ~mask
    return payload_at, payload_at + ((value_bytes + mask) & ~mask)


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """A record's header, decoded and checked against the segment's seed."""

    state: int
    sequence: int
    commit_check: int
    header_check: int
    namespace_hash: int
    digest: bytes
    digest_kind: int
    value_bytes: int
    key: bytes
    meta: bytes
    stamp: int = 0

    @property
    def committed(self) -> bool:
        """Whether state, sequence and commit check agree that this record was committed (or is a tombstone)."""
        return self.state in (RecordState.COMMITTED, RecordState.TOMBSTONE) and self.commit_check == commit_check(
            self.header_check, self.sequence, self.state
        )

    def layout(self, alignment: int) -> tuple[int, int]:
        """Payload offset and record length in bytes, see ``record_layout``."""
        return record_layout(len(self.key), len(self.meta), self.value_bytes, alignment)


def encode_record(
    namespace_hash: int,
    key: bytes,
    meta: bytes,
    digest: bytes,
    digest_kind: int,
    value_bytes: int,
    seed: int,
    stamp: int = 0,
) -> tuple[bytes, int]:
    """The header of a reserved record up to the end of its meta, and its header check.

    The put path holds these lines inlined (``placing.py``); a test keeps the two equal.
    """
    kind = digest_kind | stamp << STAMP_SHIFT
    body = RECORD_BODY.pack(namespace_hash, digest, value_bytes, len(meta), len(key), kind) + key + meta
    check = xxh3_64(body, seed)
    return RECORD_FRONT.pack(RECORD_MAGIC, RecordState.RESERVED, 0, 0, check) + body, check


def decode_record(memory: mmap | bytes, at: int, end: int, seed: int) -> RecordHeader | None:
    """The record header at ``at``, or None where there is no header of this segment's life before ``end``."""
    if at + RECORD_HEADER_BYTES > end:
        return None
    magic, state, sequence, committed, check, namespace_hash, digest, value_bytes, meta_bytes, key_bytes, kind = (
        RECORD_HEADER.unpack_from(memory, at)
    )
    key_at = at + RECORD_HEADER_BYTES
    meta_at = key_at + key_bytes
    if magic != RECORD_MAGIC or meta_at + meta_bytes > end:
        return None
    if xxh3_64(memory[at + RECORD_BODY_AT : meta_at + meta_bytes], seed) != check:
        return None
    return RecordHeader(
        state=state,
        sequence=sequence,
        commit_check=committed,
        header_check=check,
        namespace_hash=namespace_hash,
        digest=digest,
        digest_kind=kind,
        value_bytes=value_bytes,
        key=memory[key_at:meta_at],
        meta=memory[meta_at : meta_at + meta_bytes],
        stamp=_STAMP.unpack_from(memory, at + _STAMP_AT)[0] >> STAMP_SHIFT,
    )


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """A segment's header, decoded and checked."""

    state: int
    sequence: int
    oldest_sequence: int
    opened_at: int


def encode_segment_header(sequence: int, oldest_sequence: int, opened_at: int, uuid: bytes) -> bytes:
    """The 64 bytes of a segment header whose state is still FREE: the state is flipped to OPEN once they are there."""
    checked = _SEGMENT_CHECKED.pack(SEGMENT_MAGIC, sequence, oldest_sequence, opened_at)
    check = xxh3_64(checked, segment_seed(uuid, sequence))
    return SEGMENT_HEADER.pack(SEGMENT_MAGIC, SegmentState.FREE, sequence, oldest_sequence, opened_at, check)


def decode_segment_header(memory: mmap | bytes, at: int, uuid: bytes) -> SegmentHeader | None:
    """The header at ``at``; None where it is damaged. A free or never used segment has state FREE or NEVER_USED."""
    magic, state, sequence, oldest_sequence, opened_at, check = SEGMENT_HEADER.unpack_from(memory, at)
    if state in (SegmentState.NEVER_USED, SegmentState.FREE) and magic in (SEGMENT_MAGIC, bytes(8)):
        # The rest may be half-written: a process died while it gave the space to a new segment.
        return SegmentHeader(state, 0, 0, 0)
    checked = _SEGMENT_CHECKED.pack(magic, sequence, oldest_sequence, opened_at)
    if (
        magic != SEGMENT_MAGIC
        or state not in (SegmentState.OPEN, SegmentState.SEALED)
        or xxh3_64(checked, segment_seed(uuid, sequence)) != check
    ):
        return None
    return SegmentHeader(state, sequence, oldest_sequence, opened_at)


def encode_trailer(sequence: int, tail_units: int, entries: bytes | bytearray, seed: int) -> bytes:
    """The last 64 bytes of a sealed segment; the entries stand right before it."""
    entry_count = len(entries) // ENTRY_BYTES
    entries_check = xxh3_64(entries, seed)
    checked = _TRAILER_CHECKED.pack(TRAILER_MAGIC, sequence, entry_count, tail_units, entries_check)
    return TRAILER.pack(TRAILER_MAGIC, sequence, entry_count, tail_units, entries_check, xxh3_64(checked, seed))


def trailer_entry_count(memory: mmap | bytes, end: int) -> int:
    """How many entries the trailer of a segment that ends at ``end`` claims; not checked yet."""
    return int(TRAILER.unpack_from(memory, end - TRAILER_BYTES)[2])


def trailer_sequence(memory: mmap | bytes, end: int, uuid: bytes) -> int | None:
    """The sequence number that the trailer of a segment that ends at ``end`` proves for itself; None: it is damaged."""
    magic, sequence, entry_count, tail_units, entries_check, check = TRAILER.unpack_from(memory, end - TRAILER_BYTES)
    checked = _TRAILER_CHECKED.pack(magic, sequence, entry_count, tail_units, entries_check)
    return sequence if magic == TRAILER_MAGIC and xxh3_64(checked, segment_seed(uuid, sequence)) == check else None


def decode_footer(memory: mmap | bytes, at: int, end: int, sequence: int, seed: int) -> tuple[bytes, int] | None:
    """The entries and the tail (in units from the segment's start) of the sealed segment in ``[at, end)``.

    None where trailer or entries are damaged or of another life of the space.
    """
    magic, own_sequence, entry_count, tail_units, entries_check, check = TRAILER.unpack_from(
        memory, end - TRAILER_BYTES
    )
    checked = _TRAILER_CHECKED.pack(magic, own_sequence, entry_count, tail_units, entries_check)
    if magic != TRAILER_MAGIC or own_sequence != sequence or xxh3_64(checked, seed) != check:
        return None
    entries_at = end - TRAILER_BYTES - entry_count * ENTRY_BYTES
    if entries_at < at + (tail_units << UNIT_SHIFT):
        return None
    entries = memory[entries_at : end - TRAILER_BYTES]
    return (entries, tail_units) if xxh3_64(entries, seed) == entries_check else None
