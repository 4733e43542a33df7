# SPDX-License-Identifier: Apache-2.0
"""Records that are written again in the current segment: what eviction keeps, and puts that are late.

A put is late where what it replaces has come to lie in a younger segment than the space it was given. Space is taken
when a put begins. Another put of the key that began later may be committed before it, and eviction may copy forward
what the key holds. Segments are given up oldest first: if the late put stayed where it is, it would go before what it
replaced, and that would be back after the next start. So it moves to the current segment.
"""

from __future__ import annotations

from memkv_core.errors import StorageError
from memkv_server.engine.pool import Segment, SegmentPool
from memkv_server.engine.segment import RecordHeader, decode_record, encode_record


def copy_record(
    source: Segment, source_at: int, header: RecordHeader, target: Segment, size: int, *, alignment: int, stamp: int
) -> int:
    """Writes a record of ``size`` bytes at the target's tail, reserved; its header check there.

    ``source_at`` is its place in the source's memory. The target is ready to be written; its tail stays where it is.
    """
    at = target.origin + target.tail
    encoded, check = encode_record(
        header.namespace_hash,
        header.key,
        header.meta,
        header.digest,
        header.digest_kind,
        header.value_bytes,
        target.seed,
        stamp,
    )
    target.memory[at : at + len(encoded)] = encoded
    payload_at = header.layout(alignment)[0]
    target.view[at + payload_at : at + size] = source.view[source_at + payload_at : source_at + size]
    return check


def relocate(pool: SegmentPool, source: Segment, offset: int, size: int) -> tuple[Segment, int, int, memoryview] | None:
    """Copies a received record to the current segment: segment, offset, header check and payload there.

    It is not committed yet. The memory of the source may be given back from now on. None where there is no room, or the
    drive fails; nothing is evicted for it.
    """
    target = pool.current
    try:
        if target is None or not target.has_room(size):
            target = pool.open_next()
        if target is None:
            return None
        pool.prepare(target, target.tail + size)
    except StorageError:  # no memory for it; or the drive has noted that it fails
        return None
    source_at, at = source.origin + offset, target.origin + target.tail
    header = decode_record(source.memory, source_at, source.origin + source.end, source.seed)
    assert header is not None, "a reserved record has its header"
    check = copy_record(source, source_at, header, target, size, alignment=pool.alignment, stamp=header.stamp)
    pool.changed(source, offset, offset + size)  # it stays there, reserved for ever: a scan steps over it
    offset = target.tail
    target.tail += size
    target.entry_count += 1
    payload_at = at + header.layout(pool.alignment)[0]
    payload = target.view[payload_at : payload_at + header.value_bytes]
    return target, offset, check, payload
