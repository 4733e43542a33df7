# SPDX-License-Identifier: Apache-2.0
"""What a lane and its clients do to a simulated store, and how the model follows it."""

from __future__ import annotations

from typing import Any

from memkv_server.engine.base import Status
from memkv_server.engine.durability import Level
from memkv_server.engine.pool import Phase
from memkv_server.testing.draws import (
    Key,
    payload,
    value_digest,
    value_meta,
)
from memkv_server.testing.faulty_drive import Fault
from memkv_server.testing.lives import Lives
from memkv_server.testing.model import Value


class Traffic(Lives):
    """Puts, commits, syncs and reads of one store, each with its consequences in the model."""

    def _reserve(self, batch: Any, kind: int, fault: Fault | None) -> Any:
        name, parts = batch
        names = [key for key, _, _ in parts]
        # Of no bytes there are only two variants: with a meta and without.
        values: list[Value] = [(size, variant if size else variant % 2) for _, size, variant in parts]
        sums = [value_digest(value, kind) for value in values]
        lengths = [size for size, _ in values]
        metas = [value_meta(value) for value in values]
        namespace = self.namespaces[name]
        reservation = self._attempt(fault, lambda: self.engine.reserve(namespace, names, lengths, sums, kind, metas))
        if reservation is not None:
            self._note_losses(())  # what was evicted to make room
            self.reserved.append(reservation)
            for key, value, extent, status in zip(names, values, reservation.extents, reservation.statuses):
                if extent is None and status == Status.PRESENT:
                    assert self.model.allows((name, key), value), "present means these very bytes"
        return reservation, name, names, values

    def _commit(self, put: Any, spoiled: int, fault: Fault | None) -> None:
        reservation, name, names, values = put
        if all(reservation is not known for known in self.reserved):
            return  # of an earlier process
        self.reserved = [known for known in self.reserved if known is not reservation]
        places = tuple((name, key) for key in names)
        saved = self.model.saved(places)
        for place, extent in enumerate(reservation.extents):
            if extent is not None:
                extent[:] = payload(values[place])
                if place == spoiled and len(extent):
                    extent[len(extent) // 2] ^= 1
                else:
                    self.model.put_begun(places[place], values[place])
        statuses = self._attempt(fault, lambda: self.engine.commit(reservation), places)
        if statuses is None:
            return
        self.model.restore(saved)
        for place, (key, value, status) in enumerate(zip(places, values, statuses, strict=True)):
            if status == Status.HIT:
                self.model.put_done(key, value)
            elif status == Status.BAD_DIGEST:
                assert place == spoiled
            else:
                assert status in (Status.PRESENT, Status.NO_SPACE, Status.TOO_LONG) or self.profile == "eio"
        self._note_losses(places)
        self._acknowledge(fault)

    def _acknowledge(self, fault: Fault | None) -> None:
        """Under strict the answer waits for a commit; what that covers is known when it has ended."""
        if self.level is Level.STRICT:
            ticket = self.engine.ticket()
            if ticket is None:
                self.model.synced()
            else:
                self.waiting.append((ticket, self.model.writes))
                self._attempt(fault, self._tick)

    def _tick(self) -> bool:
        self.engine.tick()
        self._settle_tickets()
        return True

    def _sync(self) -> bool:
        self.engine.sync()
        self._note_losses(())
        self.model.synced()
        self.given_up = 0
        return True

    def _read(self, names: list[bytes], name: str, *, release: bool) -> Any:
        batch = self.engine.read(self.namespaces[name], names, [1 << 20] * len(names))
        self._note_losses(())
        copies = [None if view is None else bytes(view) for view in batch.views]
        for place, (key, view) in enumerate(zip(names, batch.views, strict=True)):
            found = None
            if view is not None:
                found = self._value_of(
                    (name, key), view, batch.digests[place], batch.digest_kinds[place], batch.metas[place]
                )
                if found is None:
                    self.model.delete_begun((name, key))
            self._found((name, key), found)
        if release:
            self.engine.release(batch)
            return None, None
        self.held.append(batch)
        return batch, copies

    def _found(self, key: Key, found: Value | None) -> None:
        assert self.model.allows(key, found), self._say(key, found)

    def _quiet(self) -> bool:
        return not self.held and not self.reserved

    def _idle_extents(self) -> list[tuple[int, int]]:
        return [
            (segment.address, segment.address + segment.end)
            for segment in self.engine._pool.segments
            if segment.phase in (Phase.SEALED, Phase.FREE)
        ]
