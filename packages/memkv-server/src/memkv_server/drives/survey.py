# SPDX-License-Identifier: Apache-2.0
"""A quick look at a drive: whose it is, how large, how full. Reads a few bytes of each segment and takes no lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from memkv_core.errors import StorageError
from memkv_server.drives.headers import read_slots
from memkv_server.drives.image import StoreImage, holder_of, is_device, open_image
from memkv_server.drives.rescue import read_superblock
from memkv_server.engine.superblock import Geometry

_ALIGNMENT_FILE: Final = 64


def survey_drive(path: Path) -> dict[str, Any]:
    """One row for ``memkv drive list``; what cannot be told is None, and ``failure`` says why.

    ``state`` is ``in use`` (``holder`` says by whom), ``idle``, ``damaged`` (its superblock, or a segment header) or
    ``unknown`` (no store of ours, or it cannot be opened).
    """
    row: dict[str, Any] = {
        "path": str(path), "mode": None, "state": "unknown", "failure": None, "holder": None, "capacity_bytes": None,
        "used_bytes": None, "segments": None, "format_version": None, "uuid": None,
    }  # fmt: skip
    try:
        with open_image(path, locked=False) as image:
            geometry = read_superblock(image)
            if geometry is None:
                file = image.superblock.file
                row.update(state="damaged", failure=f"{file}: offset 0: the superblock is damaged")
            else:
                _describe(row, image.part_after(geometry), geometry)
    except StorageError as error:
        row["failure"] = str(error)
    row["holder"] = None if is_device(path) else holder_of(path)
    if row["holder"] is not None:
        row["state"] = "in use"
    return row


def _describe(row: dict[str, Any], image: StoreImage, geometry: Geometry) -> None:
    slots = read_slots(image.segments, geometry)
    damaged = sum(slot.damaged for slot in slots)
    used = sum(slot.in_use for slot in slots)
    row.update(
        mode="file" if geometry.alignment == _ALIGNMENT_FILE else "direct",
        state="damaged" if damaged else "idle",
        failure=f"{damaged} of {len(slots)} segment headers damaged" if damaged else None,
        capacity_bytes=geometry.store_bytes,
        used_bytes=used * geometry.segment_bytes,
        segments={"total": geometry.segment_count, "used": used, "damaged": damaged},
        format_version=geometry.format_version,
        uuid=geometry.uuid.hex(),
    )
