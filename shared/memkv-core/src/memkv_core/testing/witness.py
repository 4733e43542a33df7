# SPDX-License-Identifier: Apache-2.0
"""Clients that put, replace, delete and get, and remember what was acknowledged: after a crash they tell what is wrong.

Each key belongs to one writing thread, so its history is a line of versions; a delete is one as well. A version whose
call was not acknowledged may be there or not (it may even take effect after the next one, from a connection that the
client gave up), until a ``sweep`` has seen which. Every value names its key and version, and all its bytes follow from
the two: one look tells whether it is whole, and whose it is.

What a sweep or a reader finds is one of: fair; *lost*, a miss where a value was acknowledged; a *phantom*, a whole
value of this key that must be gone (replaced, deleted, or never put); *corrupt*, anything else.
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from memkv_core.client import Client

GONE: Final = 0  # the version of a key that was never put; deletes have their own, negative
_HEAD: Final = struct.Struct("<Q16s")  # version, digest of the key
_SWEEP_KEYS: Final = 32
_SWEEP_TRIES: Final = 20
_KEPT_SAMPLES: Final = 10
_RECORD_BYTES_MAX: Final = 12 << 10  # what a record takes beside its value, rounding included, in any mode


def make_value(key: str, version: int, bytes_max: int) -> bytes:
    """The only value that is ever put under ``key`` with this version: 24 to ``bytes_max`` bytes."""
    name = hashlib.blake2b(key.encode(), digest_size=16).digest()
    rng = random.Random(f"{key} {version}")
    return _HEAD.pack(version, name) + rng.randbytes(rng.randrange(bytes_max - _HEAD.size))


def read_version(key: str, value: bytes, bytes_max: int) -> int | None:
    """Which version of ``key`` this value is; None where it is none."""
    if len(value) < _HEAD.size:
        return None
    version = int(_HEAD.unpack_from(value)[0])
    return version if value == make_value(key, version, bytes_max) else None


@dataclass
class Line:
    """The history of one key. Written by its owner; others read ``possible``, which is replaced and never changed."""

    started: int = 0  # the newest version that was begun, without its sign
    possible: frozenset[int] = frozenset({GONE})
    unknown: set[int] = field(default_factory=set)  # begun, and neither acknowledged nor seen since

    def begin(self, *, delete: bool) -> int:
        """A call is under way; its version, negative for a delete."""
        self.started += 1
        version = -self.started if delete else self.started
        self.possible |= {version}
        return version

    def end(self, version: int, *, acknowledged: bool) -> None:
        """It has returned."""
        if acknowledged:
            self.possible = frozenset({version, *self.unknown})
        else:
            self.unknown.add(version)

    def settle(self, version: int) -> None:
        """This is what was found when nothing was under way."""
        self.possible, self.unknown = frozenset({version}), set()


@dataclass
class Verdict:
    """What was found wrong, with samples in words; and how much was looked at. Add them up with ``+=``."""

    acknowledged: int = 0  # puts and deletes
    checked: int = 0  # keys that held an acknowledged value, in sweeps
    reads: int = 0  # values that readers checked
    lost: int = 0
    phantom: int = 0
    corrupt: int = 0
    samples: list[str] = field(default_factory=list)

    def __iadd__(self, other: Verdict) -> Verdict:
        for name in ("acknowledged", "checked", "reads", "lost", "phantom", "corrupt"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.samples = (self.samples + other.samples)[:_KEPT_SAMPLES]
        return self

    @property
    def wrong(self) -> int:
        """All that must not be."""
        return self.lost + self.phantom + self.corrupt

    def note(self, kind: str, words: str) -> None:
        """Counts one, and keeps the words of the first few."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.samples) < _KEPT_SAMPLES:
            self.samples.append(f"{kind}: {words}")


class Witness:
    """Writers and readers of one store over its whole life, through any number of crashes.

    ``make_client`` gives a client of the node that runs now; it is called for each thread and each sweep. Writers pause
    when ``room_bytes`` may have been written: with that much capacity nothing has been evicted.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        seed: int,
        *,
        writers: int = 2,
        readers: int = 1,
        keys: int = 48,
        batch: int = 4,
        value_bytes_max: int = 64 << 10,
        room_bytes: int = 1 << 62,
    ) -> None:
        self._make_client = make_client
        self._rng = random.Random(seed)
        self._batch = batch
        self._bytes_max = value_bytes_max
        self._readers = readers
        self.lines: list[dict[str, Line]] = [
            {f"w{writer}-{number}": Line() for number in range(keys)} for writer in range(writers)
        ]
        self._all = {key: line for owned in self.lines for key, line in owned.items()}
        self.room_bytes = room_bytes  # what may still be written
        self._room = threading.Lock()

    # -- load ----------------------------------------------------------------------------------------------------------
    def run(self, until: Callable[[], None], *, timeout_ms: int = 5000) -> Verdict:
        """Loads the node while ``until`` runs (it kills the node, say); returns when every thread has ended."""
        stop = threading.Event()
        verdicts = [Verdict() for _ in range(len(self.lines) + self._readers)]
        failures: list[BaseException] = []

        def guarded(work: Callable[..., None], number: int, *arguments: object) -> None:
            try:
                with self._make_client() as client:
                    work(client, random.Random(seeds[number]), stop, timeout_ms, verdicts[number], *arguments)
            except BaseException as error:  # noqa: BLE001  a thread's failure is the run's
                failures.append(error)

        seeds = [self._rng.random() for _ in verdicts]
        threads = [
            threading.Thread(target=guarded, args=(self._write, number, owned))
            for number, owned in enumerate(self.lines)
        ]
        threads += [
            threading.Thread(target=guarded, args=(self._read, len(self.lines) + number))
            for number in range(self._readers)
        ]
        for thread in threads:
            thread.start()
        try:
            until()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        total = Verdict()
        for verdict in verdicts:
            total += verdict
        return total

    def _write(
        self,
        client: Client,
        rng: random.Random,
        stop: threading.Event,
        timeout_ms: int,
        verdict: Verdict,
        owned: dict[str, Line],
    ) -> None:
        while not stop.is_set():
            if not self._take_room():
                stop.wait(0.01)
                continue
            keys = rng.sample(list(owned), self._batch)
            delete = rng.random() < 0.2
            versions = [owned[key].begin(delete=delete) for key in keys]
            if delete:
                # False is a miss, or nobody answered: what became of it is for the next look to tell.
                done = client.delete(keys, timeout_ms=timeout_ms)
            else:
                values = [make_value(key, version, self._bytes_max) for key, version in zip(keys, versions)]
                done = client.put(keys, values, timeout_ms=timeout_ms)
            for key, version, ok in zip(keys, versions, done):
                owned[key].end(version, acknowledged=ok)
                verdict.acknowledged += ok

    def _take_room(self) -> bool:
        with self._room:
            taken = self._batch * (self._bytes_max + _RECORD_BYTES_MAX)
            if taken > self.room_bytes:
                return False
            self.room_bytes -= taken
            return True

    def _read(
        self, client: Client, rng: random.Random, stop: threading.Event, timeout_ms: int, verdict: Verdict
    ) -> None:
        names = list(self._all)
        targets = [bytearray(self._bytes_max) for _ in range(self._batch)]
        while not stop.is_set():
            keys = rng.sample(names, self._batch)
            before = [(self._all[key].possible, self._all[key].started) for key in keys]
            lengths = client.get(keys, targets, timeout_ms=timeout_ms)
            for key, target, length, (possible, started) in zip(keys, targets, lengths, before):
                if length is None:
                    continue  # deleted, or nobody answered
                verdict.reads += 1
                version = read_version(key, bytes(target[:length]), self._bytes_max)
                if version is None:
                    verdict.note("corrupt", f"{key} read as {length} bytes that were never put")
                elif version not in possible and not started < version <= self._all[key].started:
                    verdict.note("phantom", f"{key} read at version {version}, when {sorted(possible)} were possible")
        verdict.corrupt += client.stats().misses.get("corrupt", 0)

    # -- after a crash -------------------------------------------------------------------------------------------------
    def sweep(self) -> Verdict:
        """Looks at every key, with nothing under way, and takes what is there for the state to go on from."""
        verdict = Verdict()
        names = list(self._all)
        with self._make_client() as client:
            for start in range(0, len(names), _SWEEP_KEYS):
                part = names[start : start + _SWEEP_KEYS]
                for key, value in zip(part, self._get_surely(client, part)):
                    self._judge(key, value, verdict)
            absent = [f"never-{number}" for number in range(_SWEEP_KEYS)]
            for key, there in zip(absent, client.exists(absent)):
                if there:
                    verdict.note("phantom", f"{key} was never put")
            verdict.corrupt += client.stats().misses.get("corrupt", 0)
        return verdict

    def _judge(self, key: str, value: bytes | None, verdict: Verdict) -> None:
        line = self._all[key]
        gone = {version for version in line.possible if version <= 0}
        verdict.checked += not gone
        if value is None:
            if not gone:
                verdict.note("lost", f"{key} is a miss, and should be at one of {sorted(line.possible)}")
            line.settle(min(gone, default=GONE))
            return
        version = read_version(key, value, self._bytes_max)
        if version is None:
            verdict.note("corrupt", f"{key} holds {len(value)} bytes that were never put")
            return
        if version not in line.possible:
            verdict.note("phantom", f"{key} is at version {version}, and may be at one of {sorted(line.possible)}")
        line.settle(version)

    def _get_surely(self, client: Client, keys: Sequence[str]) -> list[bytes | None]:
        """Gets until every answer came from the node: what is not there is a miss then, and not for want of one."""
        targets = [bytearray(self._bytes_max) for _ in keys]
        for _ in range(_SWEEP_TRIES):
            before = client.stats().misses
            lengths = client.get(keys, targets, timeout_ms=30_000)
            after = client.stats().misses
            if all(after.get(cause, 0) == before.get(cause, 0) for cause in ("timeout", "unreachable", "refused")):
                return [None if length is None else bytes(target[:length]) for target, length in zip(targets, lengths)]
            time.sleep(0.1)
        raise AssertionError("the node does not answer")
