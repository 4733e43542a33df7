# SPDX-License-Identifier: Apache-2.0
"""The storage engine: append-only segments on a drive, an index in memory, eviction by whole segments."""

from __future__ import annotations

from memkv_server.engine.base import Engine, Namespace, ReadBatch, Reservation, Status
from memkv_server.engine.drive_set import DriveSet
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.opening import open_engine

__all__ = ["DriveSet", "Engine", "Namespace", "ReadBatch", "Reservation", "SegmentEngine", "Status", "open_engine"]
