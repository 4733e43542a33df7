# SPDX-License-Identifier: Apache-2.0
"""Headers of many records at once, as arrays: how a batch of small blocks is done where its keys are of one length.

A header by itself costs some 2 us in Python, most of it for the objects that its fields become. Here a batch's headers
are one array in the layout of ``segment.py``, one row a record, and a field of all of them is one operation of numpy:
0.3 us a record, of which half is the call of xxh3 that no array operation makes. An array operation costs 1 to 10 us
however few its rows are, so below ALIKE_MIN records the functions of ``segment.py`` are faster.

Records begin at multiples of 64 bytes in their segment, and all segments lie in one mapping. So a record is addressed
by a number of units, the same on the drive and from the mapping's origin, and rows move as whole units.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from memkv_core.limits import KEY_BYTES_MAX
from memkv_server.engine.segment import (
    RECORD_BODY_AT,
    RECORD_COMMIT_AT,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    RECORD_STATE_AT,
    UNIT_BYTES,
    RecordState,
    xxh3_64,
)

ALIKE_MIN: Final = 12  # records, from where on arrays are faster (measured: 8 to 16)
_UNIT: Final = np.dtype(f"V{UNIT_BYTES}")
_WORDS: Final = UNIT_BYTES // 8
_META_BITS: Final = 16
Heads = npt.NDArray[np.void]
Units = npt.NDArray[np.int64]


@lru_cache(maxsize=KEY_BYTES_MAX)
def head_dtype(key_bytes: int) -> np.dtype[np.void]:
    """A header with a key of this length and no meta, up to the end of its last unit; see ``segment.py``.

    ``front`` is magic, state and three zeros; ``lengths`` those of meta and key; ``kind`` stands with the stamp.
    """
    size = RECORD_HEADER_BYTES + key_bytes
    layout: np.dtype[np.void] = np.dtype({
        "names": [
            "front", "sequence", "commit_check", "header_check",
            "namespace_hash", "digest", "value_bytes", "lengths", "kind_and_stamp", "key",
        ],
        "formats": ["<u8", "<u8", "<u8", "<u8", "<u8", "V16", "<u4", "<u4", "<u8", f"V{key_bytes}"],
        "offsets": [0, 8, 16, 24, 32, 40, 56, 60, 64, RECORD_HEADER_BYTES],
        "itemsize": -(-size // UNIT_BYTES) * UNIT_BYTES,
    })  # fmt: skip
    return layout


def front_of(state: RecordState) -> int:
    """The field ``front`` of a record in this state."""
    return RECORD_MAGIC | state << 32


def joined_keys(keys: Sequence[bytes]) -> bytes | None:
    """All keys one after the other; None where they are not of one length, or too few to be worth it."""
    if len(keys) < ALIKE_MIN or len(set(map(len, keys))) > 1:
        return None
    return b"".join(keys)


def load_heads(view: memoryview, origin: int, units: Units, key_bytes: int) -> Heads:
    """The headers at these units of the mapping, copied out side by side.

    It is the copy that makes the rest fast: each header lies in a cache line that nobody has touched for long, and
    here the processor waits for many of them at once.
    """
    layout = head_dtype(key_bytes)
    rows = _space(view, origin).take(units[:, None] + np.arange(layout.itemsize // UNIT_BYTES))
    return rows.view(layout).reshape(-1)


def header_checks(heads: Heads, key_bytes: int, seeds: Sequence[int]) -> list[int]:
    """The header check of each, under the seed of its segment."""
    block, stride = heads.tobytes(), heads.itemsize
    size = RECORD_HEADER_BYTES + key_bytes - RECORD_BODY_AT
    starts = range(RECORD_BODY_AT, len(block), stride)
    return [xxh3_64(block[at : at + size], seed) for at, seed in zip(starts, seeds, strict=True)]


def are_whole(heads: Heads, keys: bytes, namespace_hash: int, seeds: Sequence[int]) -> bool:
    """Whether every one is a committed record of this namespace and of its key (``keys`` are joined), without meta,
    and matches its checksum."""
    key_bytes = len(keys) // len(heads)
    return bool(
        (heads["front"] == front_of(RecordState.COMMITTED)).all()
        and (heads["namespace_hash"] == namespace_hash).all()
        and (heads["lengths"] == key_bytes << _META_BITS).all()
        and heads["key"].tobytes() == keys
        and heads["header_check"].tolist() == header_checks(heads, key_bytes, seeds)
    )


class HeadFields(NamedTuple):
    """What the headers of records of one shape are made of: ``keys`` and ``digests`` one after the other."""

    keys: bytes
    lengths: Units  # of the values, in bytes
    digests: bytes
    namespace_hash: int
    kind_and_stamp: int


def write_heads(view: memoryview, origin: int, units: Units, fields: HeadFields, seed: int) -> list[int]:
    """Writes the headers of reserved records of one segment at these units of the mapping; their header checks.

    As ``segment.encode_record`` for each, and zeros up to the end of the header's last unit.
    """
    key_bytes = len(fields.keys) // len(units)
    heads = np.zeros(len(units), head_dtype(key_bytes))
    heads["front"] = front_of(RecordState.RESERVED)
    heads["namespace_hash"] = fields.namespace_hash
    heads["digest"] = np.frombuffer(fields.digests, "V16")
    heads["value_bytes"] = fields.lengths
    heads["lengths"] = key_bytes << _META_BITS
    heads["kind_and_stamp"] = fields.kind_and_stamp
    heads["key"] = np.frombuffer(fields.keys, f"V{key_bytes}")
    checks = header_checks(heads, key_bytes, (seed,) * len(units))
    heads["header_check"] = checks
    rows = heads.view(_UNIT).reshape(len(units), -1)
    _space(view, origin)[units[:, None] + np.arange(rows.shape[1])] = rows
    return checks


def commit_heads(
    view: memoryview, origin: int, units: Units, sequences: npt.NDArray[np.uint64], checks: npt.NDArray[np.uint64]
) -> None:
    """Sequences and commit checks of all records, and only then their states."""
    words = _space(view, origin).view("<u8")
    words[units * _WORDS + RECORD_COMMIT_AT // 8] = sequences
    words[units * _WORDS + RECORD_COMMIT_AT // 8 + 1] = checks
    words.view(np.uint8)[units * UNIT_BYTES + RECORD_STATE_AT] = RecordState.COMMITTED


def _space(view: memoryview, origin: int) -> npt.NDArray[np.void]:
    """The mapping from its origin on, in units. Not to be kept: while it lives the mapping cannot be closed."""
    return np.frombuffer(view, _UNIT, (len(view) - origin) // UNIT_BYTES, origin)
