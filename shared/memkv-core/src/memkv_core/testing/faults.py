# SPDX-License-Identifier: Apache-2.0
"""A transport that fails on purpose, around any other: seeded, counted, replayable.

Which faults there are, and what the client must make of each (nothing may raise, no wrong byte may be called a hit):

=================  =========================================================  ===================================
fault              what happens                                               what the caller may see
=================  =========================================================  ===================================
``refuse``         no connection can be made; nothing was sent                retried, else a miss
``lose_request``   the connection ends before the server saw the request      retried, else a miss
``lose_response``  the server did it; the connection ends before the answer   retried: a put is PRESENT; a miss
``truncate``       the connection ends in the middle of a response's payload  retried, else a miss
``time_out``       nothing comes; the deadline is spent                       a miss, the breaker opens
``delay``          the answer comes late, but before the deadline             the plain result
``flip_payload``   one bit of a response's payload is flipped                 a miss (corrupt) for that key
``flip_source``    one bit of a request's payload is flipped                  not stored (the server's digest check)
=================  =========================================================  ===================================

The seed comes from the argument, else from MEMKV_FAULT_SEED, else from chance; it is logged with the command that
replays the run, so that pytest shows both beneath a failure.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from memkv_core import wire
from memkv_core.buffers import Region, prefix_parts, total_bytes
from memkv_core.config import ClientConfig
from memkv_core.errors import ConnectError, DisconnectedError, MemKVError, TransportTimeoutError
from memkv_core.transports.base import Call, MoveCounts, Route, Transport

_LOG: Final = logging.getLogger(__name__)

FAULTS: Final = (
    "refuse",
    "lose_request",
    "lose_response",
    "truncate",
    "time_out",
    "delay",
    "flip_payload",
    "flip_source",
)
SEED_VARIABLE: Final = "MEMKV_FAULT_SEED"
_DELAY_S_MAX: Final = 0.02

ClientConfig.other_variables.add(SEED_VARIABLE)


class FaultyTransport:
    """Runs calls through ``inner``, each with a fault drawn by ``rates``. Thread-safe as the seam asks.

    ``rates`` maps faults to probabilities (their sum at most 1). ``counts`` says what was injected. Faults are drawn in
    the order of the calls, so one thread with one seed gives one history.
    """

    name = "faulty"

    def __init__(self, inner: Transport, rates: Mapping[str, float], *, seed: int | None = None) -> None:
        unknown = set(rates) - set(FAULTS)
        if unknown or sum(rates.values()) > 1 or min(rates.values(), default=0) < 0:
            raise ValueError(f"rates {dict(rates)!r}: probabilities of {', '.join(FAULTS)}, 1 at most in all")
        given = os.environ.get(SEED_VARIABLE)
        self.seed = seed if seed is not None else int(given) if given else random.SystemRandom().getrandbits(32)
        self.counts: Counter[str] = Counter()
        self.rates = dict(rates)
        self._inner = inner
        self._lock = threading.Lock()
        self._random = random.Random(self.seed)
        _LOG.warning("faults %s, seed %d; replay: %s", self.rates, self.seed, self.replay)

    @property
    def replay(self) -> str:
        """The command that runs the present test again with the same faults."""
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        return f"{SEED_VARIABLE}={self.seed} pytest '{test}'"

    def lane_counts(self, servers: Sequence[str], deadline_s: float) -> dict[str, int | MemKVError]:
        return self._inner.lane_counts(servers, deadline_s)

    def frame_bytes(self, server: str) -> int:
        return self._inner.frame_bytes(server)

    def run(self, work: Sequence[tuple[Route, Sequence[Call]]], deadline_s: float) -> None:
        drawn = [(route, call, self._draw()) for route, calls in work for call in calls]
        # Routes are served at the same time: who waits for the deadline must not take it from the others.
        for route, call, (fault, at, delay_s) in sorted(drawn, key=lambda entry: entry[2][0] == "time_out"):
            self._run(route, call, deadline_s, fault, at, delay_s)

    def ping(self, server: str, deadline_s: float) -> MemKVError | None:
        return self._inner.ping(server, deadline_s)

    def register(self, view: memoryview) -> Region:
        return self._inner.register(view)

    def rail_of(self, server: str) -> str | None:
        return self._inner.rail_of(server)

    @property
    def moves(self) -> MoveCounts | None:
        return self._inner.moves

    def close(self) -> None:
        self._inner.close()

    # -- one call -------------------------------------------------------------------------------------------------
    def _run(self, route: Route, call: Call, deadline_s: float, fault: str | None, at: float, delay_s: float) -> None:
        if fault == "refuse":
            call.error = ConnectError(f"cannot connect to {route.server}: injected")
        elif fault == "lose_request":
            call.error = DisconnectedError(f"connection to {route.server} lost: injected before the request")
        elif fault == "time_out":
            time.sleep(max(0.0, deadline_s - time.monotonic()))
            call.error = TransportTimeoutError(f"{route.server} did not answer before the deadline: injected")
        else:
            if fault == "delay":
                time.sleep(min(delay_s, max(0.0, deadline_s - time.monotonic())))
            carrier = _Carrier(call, fault, at)
            self._inner.run([(route, [carrier])], deadline_s)
            if fault == "lose_response" and carrier.done:
                call.error = DisconnectedError(f"connection to {route.server} lost: injected after the request")

    def _draw(self) -> tuple[str | None, float, float]:
        """(the fault or None, where in a payload as a fraction, a delay). Always three draws: one history per seed."""
        with self._lock:
            draw, at, delay_s = self._random.random(), self._random.random(), self._random.random() * _DELAY_S_MAX
            for fault, rate in self.rates.items():
                draw -= rate
                if draw < 0:
                    self.counts[fault] += 1
                    return fault, at, delay_s
        return None, at, delay_s


class _Carrier:
    """Stands in for a call on its way through the inner transport, and spoils what passes."""

    def __init__(self, call: Call, fault: str | None, at: float) -> None:
        self._call = call
        self._fault = fault
        self._at = at
        self._targets: list[memoryview] = []
        self._flipped = False
        self._done = False
        self.opcode = call.opcode
        self.flags = call.flags
        self.kind = call.kind
        self.key_count = call.key_count
        self.descriptor = call.descriptor
        self.payload_bytes = call.payload_bytes
        self.response_metadata_bytes = call.response_metadata_bytes
        self.sources = self._spoilt_sources() if fault == "flip_source" else call.sources
        self.blocks: Sequence[list[memoryview]] | None = None  # so that the payload comes by here

    @property
    def metadata(self) -> bytes:
        return self._call.metadata

    @property
    def started(self) -> bool:
        return self._call.started

    @started.setter
    def started(self, value: bool) -> None:
        self._call.started = value

    @property
    def done(self) -> bool:
        return self._done

    @done.setter
    def done(self, value: bool) -> None:
        self._done = value
        if self._fault != "lose_response":
            self._call.done = value

    @property
    def error(self) -> MemKVError | None:
        return self._call.error

    @error.setter
    def error(self, value: MemKVError | None) -> None:
        self._call.error = value

    def metadata_while(self, read: Callable[[int, int], None]) -> bytes:
        return self._call.metadata_while(read)

    def accept(self, header: wire.Header, metadata: bytes) -> list[memoryview]:
        if self._fault == "lose_response":
            return [memoryview(bytearray(header.payload_bytes))]  # it lands nowhere
        # A copy of the list: a transport moves its views along as it fills them.
        targets = self._call.accept(header, metadata)
        self._targets = list(targets)
        return targets

    def landed(self, received_bytes: int) -> None:
        if self._fault == "lose_response":
            return
        total = total_bytes(self._targets)
        place = int(self._at * total)
        if self._fault == "truncate" and total and received_bytes > place:
            raise DisconnectedError("connection lost: injected in the middle of a payload")
        if self._fault == "flip_payload" and not self._flipped and received_bytes > place:
            self._flipped = True
            _flip(self._targets, place)
        self._call.landed(received_bytes)

    def _spoilt_sources(self) -> list[memoryview]:
        copy = memoryview(bytearray(b"".join(self._call.sources)))
        if copy:
            _flip([copy], int(self._at * len(copy)))
        return [copy] if copy else []


def _flip(views: list[memoryview], place: int) -> None:
    """Flips the lowest bit of byte ``place`` of the views taken as one."""
    *_, view = prefix_parts(views, place + 1)
    view[-1] ^= 1
