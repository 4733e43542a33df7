# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a lane: what its drives know of them, brought together.

Each drive has a registry of its own. Those that serve are told everything, dropped namespaces included; one that was
away may have missed a drop, or may be the only one that knows of one. Of what two say about a name the later epoch
counts, and in one epoch that it was opened, which came after the drop. All are told, before the drive serves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from memkv_core.errors import StorageError
from memkv_server.engine.base import Namespace
from memkv_server.engine.bay import Bay
from memkv_server.engine.engine import SegmentEngine
from memkv_server.engine.namespaces import end_namespace, make_namespace, next_epoch, renew_namespace


@dataclass(slots=True)
class LaneNamespaces:
    """By name, dropped ones included. The objects are those that sessions hold."""

    known: dict[str, Namespace] = field(default_factory=dict)
    epoch: int = 0
    forgotten: int = 0  # what was dropped up to this epoch may not be known any more

    def get(self, name: str) -> Namespace | None:
        """The namespace, if it is there and not dropped."""
        known = self.known.get(name)
        return known if known is not None and not known.dropped else None

    def names(self) -> list[str]:
        """Those that are not dropped."""
        return [name for name, known in self.known.items() if not known.dropped]

    def learn(self, engine: SegmentEngine) -> None:
        """Takes over what a drive knows and the lane does not."""
        registry = engine.namespaces
        self.epoch = max(self.epoch, registry.epoch)
        for said in registry.known:
            known = self.known.get(said.name)
            if known is None and not said.dropped and said.epoch < self.forgotten:
                continue  # dropped while the drive was away, so long ago that nobody remembers
            if known is not None and (said.epoch, not said.dropped) <= (known.epoch, not known.dropped):
                continue
            if said.dropped:
                end_namespace(self.known.setdefault(said.name, make_namespace(said.name, b"")), said.epoch)
            else:
                self.known[said.name] = renew_namespace(known, said.name, said.identity, said.epoch)
        self.forgotten = max(self.forgotten, registry.forgotten)

    def teach(self, bay: Bay, engine: SegmentEngine) -> None:
        """Tells a drive all that the lane knows. Raises StorageError where it cannot record it."""
        registry = engine.namespaces
        theirs = {each.name: each for each in registry.known}
        for name in theirs.keys() - self.known.keys():
            engine.drop_namespace(name, self.forgotten)
        bay.refused = set()
        for known in self.known.values():
            own = theirs.get(known.name)
            if known.dropped:
                if own is None or (own.epoch, own.dropped) != (known.epoch, True):
                    engine.drop_namespace(known.name, known.epoch)
            elif engine.open_namespace(known.name, known.identity, known.epoch) is None:
                bay.refused.add(known)

    def open(self, bays: Iterable[Bay], name: str, identity: bytes) -> Namespace | None:
        """See ``Engine.open_namespace``: recorded on every drive that serves, or at least on one."""
        known = self.known.get(name)
        if known is not None and not known.dropped:
            return known if known.identity == identity else None
        failure: StorageError | None = None
        recorded = False
        refused = []
        for bay in bays:
            if bay.engine is None:
                continue
            try:
                if bay.engine.open_namespace(name, identity, self.epoch) is None:
                    refused.append(bay)
                recorded = True
            except StorageError as error:
                failure = error
        if failure is not None and not recorded:
            raise failure
        if refused or not recorded:
            return None  # by its name
        self.known[name] = namespace = renew_namespace(known, name, identity, self.epoch)
        return namespace

    def drop(self, bays: Iterable[Bay], name: str) -> dict[str, Any] | None:
        """See ``Engine.drop_namespace``."""
        known = self.get(name)
        if known is None:
            return None
        epoch = next_epoch(self.epoch)
        whole: dict[str, Any] = {"name": name, "records": 0, "bytes": 0, "away": []}
        failure: StorageError | None = None
        recorded = False
        for bay in bays:
            try:
                dropped = bay.engine.drop_namespace(name, epoch) if bay.engine is not None else None
            except StorageError as error:
                dropped, failure = None, error
            if dropped is None:
                whole["away"].append(bay.path)
                continue
            recorded = True
            whole["records"] += dropped["records"]
            whole["bytes"] += dropped["bytes"]
        if not recorded:
            raise failure or StorageError(f"namespace {name!r}: no drive serves", remedy="drop it when one does")
        self.epoch = epoch
        end_namespace(known, epoch)
        for bay in bays:
            bay.refused.discard(known)
        return whole
