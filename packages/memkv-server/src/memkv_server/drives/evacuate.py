# SPDX-License-Identifier: Apache-2.0
"""Empties one drive of a node that does not run: its live records go to where clients will look for them without it.

Which drive a key lives on follows from the settings (``layout.py``), so the settings without the drive say where its
records belong. Where its place in the order is taken by another drive, records of that one move as well::

    0. open every lane as it is now, so that all its drives know the same namespaces
    1. on the other drives, delete what an earlier try left that is not live on the drive it came from any more
    2. copy the drive's records, and those of others whose home is another now, each verified against its digest
    3. everything is on the medium: the drive is emptied
    4. the others forget what they have passed on

It can be interrupted and run again: up to 3 nothing is taken away, and what has been copied is found to be there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memkv_core.errors import StorageError
from memkv_server.config import ServerConfig
from memkv_server.drives.check import Progress, no_progress
from memkv_server.drives.image import holder_of, open_image
from memkv_server.drives.relocate import Lanes, Moved
from memkv_server.drives.rescue import read_superblock
from memkv_server.drives.walk import Found, walk
from memkv_server.engine import DriveSet, SegmentEngine
from memkv_server.engine.base import Namespace, Status
from memkv_server.engine.segment import SEGMENT_HEADER
from memkv_server.lane import open_lane_engine
from memkv_server.supervisor import start_message


@dataclass
class Evacuation:
    """One evacuation, from ``old`` settings to ``new`` ones without ``path``. Use as a context manager.

    Raises StorageError where a drive cannot be opened, is in use, or takes no writes.
    """

    old: ServerConfig
    new: ServerConfig
    path: str
    progress: Progress = no_progress
    _before: Lanes = field(init=False)
    _after: Lanes = field(init=False)
    _source: SegmentEngine = field(init=False)
    _open: contextlib.ExitStack = field(init=False)

    def __enter__(self) -> Evacuation:
        for drive in self.old.storage.drives:
            if (holder := holder_of(drive.path)) is not None:
                raise StorageError(f"{drive.path} is open in a running node ({holder})", remedy="stop that node first")
        before = []
        for lane in range(self.old.lane_count):
            before.append(_lane(self.old, lane))
            before[-1].close()  # and is asked for the old homes only, from here on
        self._before = Lanes(before)
        with contextlib.ExitStack() as on_error:
            lane = next(lane for lane, each in enumerate(before) if self.path in each.paths)
            own = [drive for drive in self.old.drives_of(lane) if drive["path"] == self.path]
            alone = _drive_set(self.old, own)
            on_error.callback(alone.close)
            self._source = alone.engine_at(self.path)
            after = []
            for lane in range(self.new.lane_count):
                after.append(_lane(self.new, lane))
                on_error.callback(after[-1].close)
            self._after = Lanes(after)
            self._open = on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def moved(self) -> Moved:
        """What has been done so far."""
        return self._after.moved

    def outlook(self) -> dict[str, Any]:
        """How much there is to move, and how much room."""
        usage = self._source.usage()
        free = 0
        for each in self._after.sets:
            segments = each.usage()["segments"]
            free += segments["free"] * segments["bytes"]
        return {"records": usage["records"], "live_bytes": usage["live_bytes"], "free_bytes": free}

    def run(self) -> None:
        """All of it; see the module."""
        others = [(path, each.engine_at(path)) for each in self._after.sets for path in each.paths]
        total = self.outlook()["live_bytes"] + sum(engine.usage()["live_bytes"] for _, engine in others)
        done = 0
        resumable = self._source.usage()["records"] > 0
        for path, engine in others:
            for found in walk(engine, path):
                if resumable:
                    self._delete_stale(engine, path, found)
        for path, engine in [(self.path, self._source), *others]:
            for found in walk(engine, path):
                self._after.take(engine, found.namespace, self._leaving(path, found))
                done += found.length
                self.progress(min(done, total), total)
        self._after.sync()
        self._empty_source()
        for path, engine in others:
            for found in walk(engine, path):
                engine.delete(found.namespace, self._leaving(path, found))
        self._after.sync()

    def _leaving(self, path: str, found: Found) -> list[bytes]:
        """Those keys that live on this drive now and on another one then."""
        then = self._after.homes_of(found.namespace, found.keys)
        return [
            key
            for key, home, new_home in zip(found.keys, self._old_homes(found.namespace, found.keys), then, strict=True)
            if home == path and new_home != path
        ]

    def _delete_stale(self, engine: SegmentEngine, path: str, found: Found) -> None:
        """What does not live on this drive is a copy; it is stale unless it is live where it came from."""
        homes = self._old_homes(found.namespace, found.keys)
        stale = [
            key for key, home in zip(found.keys, homes, strict=True)
            if home != path and not self._is_live(home, found.namespace, key)
        ]  # fmt: skip
        if stale:
            self.moved.stale += bytes(engine.delete(found.namespace, stale)).count(Status.HIT)

    def _is_live(self, home: str | None, namespace: Namespace, key: bytes) -> bool:
        if home is None:
            return False
        engine = self._source if home == self.path else self._engine_at(home)
        own = engine.namespaces.get(namespace.name)
        return own is not None and not own.dropped and engine.exists(own, [key]) == bytes([Status.HIT])

    def _engine_at(self, path: str) -> SegmentEngine:
        return next(each for each in self._after.sets if path in each.paths).engine_at(path)

    def _old_homes(self, namespace: Namespace, keys: Sequence[bytes]) -> Iterator[str | None]:
        for key, lane in zip(keys, self._before.lane_of(namespace, keys), strict=True):
            known = self._before.sets[lane].known_namespace(namespace.name)
            live = known is not None and not known.dropped
            yield self._before.sets[lane].home_of(known, key) if known is not None and live else None

    def _empty_source(self) -> None:
        """Every segment is marked as never used, so that a drive that is put back brings nothing that is old."""
        self._source.close()
        with open_image(Path(self.path), writable=True) as image:
            geometry = read_superblock(image)
            assert geometry is not None, "it was open a moment ago"
            segments = image.part_after(geometry).segments
            for slot in range(geometry.segment_count):
                segments.write(slot * geometry.segment_bytes, bytes(SEGMENT_HEADER.size))
            image.sync()


def _lane(config: ServerConfig, lane: int) -> DriveSet:
    """A lane's engine with every drive of it. Raises StorageError where one cannot be opened."""
    return _whole(open_lane_engine(start_message(config, lane)))


def _drive_set(config: ServerConfig, drives: list[dict[str, Any]]) -> DriveSet:
    return _whole(open_lane_engine({**start_message(config, 0), "drives": drives}))


def _whole(engine: object) -> DriveSet:
    assert isinstance(engine, DriveSet)
    try:
        for path in engine.paths:
            engine.engine_at(path)
    except StorageError:
        engine.close()
        raise
    return engine
