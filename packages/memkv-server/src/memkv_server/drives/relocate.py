# SPDX-License-Identifier: Apache-2.0
"""Puts records of one engine into the lanes that they belong to now: verified on the way, counted one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from memkv_core import router
from memkv_core.errors import StorageError
from memkv_server.engine import DriveSet, SegmentEngine
from memkv_server.engine.base import Namespace, Status

_TRIES: Final = 100
_CAPACITY_MAX: Final = 1 << 40
_DROP_SLACK_S: Final = 60  # drops of one namespace in several lanes are dated by when each lane was told


@dataclass(slots=True)
class Moved:
    """What became of the records that were to be moved."""

    records: int = 0  # written to another drive
    bytes: int = 0
    already: int = 0  # were there, with the same bytes
    damaged: int = 0  # could not be read, or did not match their digest
    refused: int = 0  # the namespace is recorded there with another identity, or was dropped there
    too_long: int = 0  # for the segments of that drive
    stale: int = 0  # left behind by an earlier order of the drives, and deleted

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


class Lanes:
    """The lanes of a node, all opened in this process, without a node. Not thread-safe."""

    def __init__(self, sets: Sequence[DriveSet]) -> None:
        self.sets = sets
        self.moved = Moved()

    def lane_of(self, namespace: Namespace, keys: Sequence[bytes]) -> list[int]:
        """Which lane clients ask for each key."""
        seed = router.namespace_seed(namespace.name)
        return router.lanes_of([router.key_hash(key, seed) for key in keys], len(self.sets))

    def homes_of(self, namespace: Namespace, keys: Sequence[bytes]) -> list[str | None]:
        """The path of the drive that each key belongs to; None where its lane must not take it."""
        homes: list[str | None] = []
        for key, lane in zip(keys, self.lane_of(namespace, keys), strict=True):
            own = self.opened(lane, namespace)
            homes.append(self.sets[lane].home_of(own, key) if own is not None else None)
        return homes

    def take(self, source: SegmentEngine, namespace: Namespace, keys: Sequence[bytes]) -> list[bytes]:
        """Stores these records of ``source`` where they belong. The keys of those that are there now.

        Raises StorageError where a drive takes no writes.
        """
        done: list[bytes] = []
        lanes = self.lane_of(namespace, keys)
        for lane in sorted(set(lanes)):
            wanted = [key for key, at in zip(keys, lanes, strict=True) if at == lane]
            own = self.opened(lane, namespace)
            if own is None:
                self.moved.refused += len(wanted)
                continue
            batch = source.read(namespace, wanted, [_CAPACITY_MAX] * len(wanted))
            try:
                hits = [place for place, status in enumerate(batch.statuses) if status == Status.HIT]
                self.moved.damaged += len(wanted) - len(hits)
                for kind in {batch.digest_kinds[place] for place in hits}:
                    part = [place for place in hits if batch.digest_kinds[place] == kind]
                    values = [batch.views[place] for place in part]
                    statuses = self._put(
                        self.sets[lane], own, [wanted[place] for place in part], values,
                        [batch.digests[place] for place in part], kind, [batch.metas[place] for place in part],
                    )  # fmt: skip
                    done += [
                        wanted[place]
                        for place, status, value in zip(part, statuses, values, strict=True)
                        if self._count(status, value)
                    ]
            finally:
                source.release(batch)
        return done

    def sync(self) -> None:
        """Returns when all that was stored is on the medium. Raises StorageError."""
        for each in self.sets:
            each.sync()

    def opened(self, lane: int, namespace: Namespace) -> Namespace | None:
        """The namespace as that lane has it; None where it must not take these records."""
        known = self.sets[lane].known_namespace(namespace.name)
        if known is not None and known.epoch > namespace.epoch + _DROP_SLACK_S:
            return None
        return self.sets[lane].open_namespace(namespace.name, namespace.identity)

    def _put(
        self,
        target: DriveSet,
        namespace: Namespace,
        keys: list[bytes],
        values: Sequence[memoryview | None],
        digests: list[bytes],
        kind: int,
        metas: list[bytes],
    ) -> bytes:
        statuses = bytearray([Status.NO_SPACE]) * len(keys)
        lengths = [len(value or b"") for value in values]
        for _ in range(_TRIES):
            places = [place for place, status in enumerate(statuses) if status == Status.NO_SPACE]
            if not places:
                break
            reservation = target.reserve(
                namespace, [keys[place] for place in places], [lengths[place] for place in places],
                [digests[place] for place in places], kind, [metas[place] for place in places],
            )  # fmt: skip
            for place, extent in zip(places, reservation.extents, strict=True):
                if extent is not None:
                    extent[:] = values[place] or b""
            for place, status in zip(places, target.commit(reservation), strict=True):
                statuses[place] = status
            target.tick()
            if Status.NO_SPACE in statuses:
                target.sync()  # segments may wait for the medium before they can be used again
        if {Status.READ_ONLY, Status.NO_SPACE}.intersection(statuses):
            drives = ", ".join(str(drive["path"]) for drive in target.usage()["drives"])
            raise StorageError(
                f"{drives}: a drive takes no more writes", remedy="check it, and evacuate again: it goes on from there"
            )
        return bytes(statuses)

    def _count(self, status: int, value: memoryview | None) -> bool:
        moved = self.moved
        if status == Status.HIT:
            moved.records += 1
            moved.bytes += len(value or b"")
        elif status == Status.PRESENT:
            moved.already += 1
        elif status == Status.TOO_LONG:
            moved.too_long += 1
        else:
            moved.damaged += 1
        return status in (Status.HIT, Status.PRESENT)
