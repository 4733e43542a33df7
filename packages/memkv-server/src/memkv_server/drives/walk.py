# SPDX-License-Identifier: Apache-2.0
"""Goes through the live records of an engine that nobody else uses, oldest first, and says their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memkv_server.drives.image import UnreadableError, open_image
from memkv_server.drives.records import SegmentPlace, header_at
from memkv_server.engine import SegmentEngine
from memkv_server.engine.base import Namespace
from memkv_server.engine.index import place_address, place_length

BATCH_RECORDS: Final = 64
BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """Records of one namespace; ``length`` is of all of them, headers included."""

    namespace: Namespace
    keys: list[bytes]
    length: int


def walk(engine: SegmentEngine, path: str) -> Iterator[Found]:
    """Batches of the records that are live now; what is stored meanwhile is not met. What cannot be read is left out.

    The headers are read beside the engine, which does not see that as a use of the records.
    """
    parts = engine.parts
    engine.sync()
    segments, shift = parts.pool.segments, parts.pool.segment_shift
    namespaces = {namespace.hash: namespace for namespace in engine.namespaces}
    places = [(place_address(place), place_length(place)) for _, place in parts.index.items()]
    places.sort(key=lambda place: (segments[place[0] >> shift].sequence, place[0]))
    with open_image(Path(path), locked=False) as image:
        source = image.part_after(parts.drive.geometry).segments
        batch: list[bytes] = []
        namespace: Namespace | None = None
        size = 0
        for address, length in places:
            segment = segments[address >> shift]
            alignment = parts.pool.alignment
            place = SegmentPlace(source, segment.address, segment.end, alignment, segment.sequence, segment.seed)
            try:
                header = header_at(place, address - segment.address)
            except UnreadableError:
                continue
            known = namespaces.get(header.namespace_hash) if header is not None else None
            if header is None or known is None:
                continue
            if batch and (known is not namespace or len(batch) == BATCH_RECORDS or size + length > BATCH_BYTES):
                assert namespace is not None
                yield Found(namespace, batch, size)
                batch, size = [], 0
            namespace = known
            batch.append(header.key)
            size += length
        if batch:
            assert namespace is not None
            yield Found(namespace, batch, size)
