# SPDX-License-Identifier: Apache-2.0
"""The client that every adapter stands on: batches of blocks in, hits and misses out, before the deadline.

    client = Client(ClientConfig.load())
    client.put([b"k1", b"k2"], [page1, page2])      # [True, True]
    client.get([b"k1", b"k3"], [page1, page3])      # [4194304, None]

What a network or a server does never raises: it is a miss, counted by cause. Wrong arguments raise.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, overload

from memkv_core._version import __version__
from memkv_core.arguments import Key, checked_blocks, checked_keys, checked_metas, checked_timeout_s, spread, taken
from memkv_core.buffers import Block, Buffer, Region, flat_view
from memkv_core.calls import GetCall, KeysCall, LookupCall, PutCall
from memkv_core.config import ClientConfig
from memkv_core.digests import KINDS
from memkv_core.dispatch import Dispatcher
from memkv_core.errors import ClientClosedError, InvalidArgumentError
from memkv_core.estimates import Estimates, ServerEstimate
from memkv_core.fleet import Fleet
from memkv_core.license import License, load_license
from memkv_core.metrics import clients as metric_clients
from memkv_core.metrics import export
from memkv_core.namespaces import canonical_identity, choose_namespace
from memkv_core.router import KeyHashes, Router, namespace_seed
from memkv_core.session import Session
from memkv_core.stats import ClientStats, Recorder
from memkv_core.transports.base import Transport
from memkv_core.transports.make import make_transport
from memkv_core.transports.tcp import SessionFactory
from memkv_core.wire import Opcode, Status

_LOG: Final = logging.getLogger("memkv_core.client")
_STORED: Final = bytes((Status.HIT, Status.PRESENT))
_CAUSES: Final[dict[int, str]] = {Status.TOO_LONG: "too_long", Status.BAD_DIGEST: "corrupt"}

TransportFactory = Callable[[SessionFactory, ClientConfig], Transport]


class Client:
    """A namespace of a MemKV cluster. Thread-safe; make one per process and namespace, it pools its connections.

    Raises LicenseError and ConfigError at construction, before anything connects; connects at first use. ``identity``
    is what the namespace's blocks depend on (model, dtype, layout, ...), any JSON-able mapping: without a configured
    namespace its digest names one, with one the server refuses a session whose identity differs from the recorded.
    ``transport`` replaces the configured transport (see ``memkv_core.testing``).
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        identity: Mapping[str, Any] | None = None,
        transport: TransportFactory | None = None,
    ) -> None:
        license = load_license(config)
        _LOG.info("memkv-client license verified plan=%s", license.plan)
        self._start(config, identity, transport, license, Router(config.servers, replicas=config.replicas))
        for server in self.servers:
            rail = self._transport.rail_of(server)
            _LOG.info('Server mapped to rail server="%s"%s', server, f' rail="{rail}"' if rail is not None else "")

    def _start(
        self,
        config: ClientConfig,
        identity: Mapping[str, Any] | None,
        transport: TransportFactory | None,
        license: License,
        router: Router,
    ) -> None:
        self.config = config
        self.license = license
        self.identity = canonical_identity(identity)
        self.namespace = choose_namespace(config.namespace, self.identity)
        self.servers = list(router.servers)
        self._router = router
        self._make_transport = transport or make_transport
        self._key = config.auth_key_bytes
        self._seed = namespace_seed(self.namespace)
        self._kind = KINDS[config.integrity]
        self._agent = f"memkv-core/{__version__} {socket.gethostname()}:{os.getpid()}"[:128]
        self._transport = self._make_transport(self._new_session, config)
        self._fleet = Fleet(router.servers, self._transport.ping)
        self._estimates = Estimates(router.servers)
        self._dispatcher = Dispatcher(router, self._fleet, self._transport, self._estimates)
        self._recorder = Recorder()
        self._closed = False
        self._tracer = export.watch(self)

    def scoped(self, *, identity: Mapping[str, Any] | None, namespace: str | None = None) -> Client:
        """A client of another namespace of the cluster: own sessions and breakers, shared license and placement."""
        client = Client.__new__(Client)
        config = self.config.model_copy(update={"namespace": namespace})
        client._start(config, identity, self._make_transport, self.license, self._router)
        return client

    def _new_session(self, lane: int) -> Session:
        return Session.client(self._key, namespace=self.namespace, identity=self.identity, lane=lane, agent=self._agent)

    # -- operations ---------------------------------------------------------------------------------------------------
    def put(
        self,
        keys: Sequence[Key],
        sources: Sequence[Block],
        *,
        meta: Sequence[bytes | None] | None = None,
        timeout_ms: int | None = None,
    ) -> list[bool]:
        """Stores one block per key. True: stored, or it was there with the same bytes (other bytes are replaced).

        ``sources`` are contiguous buffers, or lists of them for a block in several parts; not altered, and free again
        on return. ``meta`` keeps up to 4 KiB beside each block. With replicas a block counts as stored when one
        server has it.
        """
        started_s, deadline_s = self._begin(timeout_ms)
        batch = checked_keys(keys)
        values, sizes = checked_blocks(sources, len(batch), writable=False)
        metas = None if meta is None else checked_metas(meta, len(batch))

        def make(positions: Sequence[int]) -> PutCall:
            return PutCall(
                positions,
                taken(batch, positions),
                taken(values, positions),
                None if metas is None else taken(metas, positions),
                self._kind,
            )

        stored = [False] * len(batch)
        misses: dict[str, int] = {}
        sent_bytes = retries = 0
        hashes = KeyHashes(batch, self._seed)
        for order in range(self._router.replicas):
            done, failed, retried = self._dispatcher.run(
                make, range(len(batch)), hashes, sizes, deadline_s, order=order
            )
            retries += retried
            _count(misses, failed.values())
            for call in done:
                sent_bytes += call.payload_bytes
                refused = call.statuses.translate(None, _STORED)
                if not refused:
                    spread([True] * call.key_count, call.positions, stored)
                    continue
                _count(misses, map(_cause_of_status, refused))
                for position, status in zip(call.positions, call.statuses):
                    if status in _STORED:
                        stored[position] = True
        self._end("put", started_s, stored.count(True), len(batch), misses, sent_bytes=sent_bytes, retries=retries)
        return stored

    @overload
    def get(
        self,
        keys: Sequence[Key],
        targets: Sequence[Block],
        *,
        with_meta: Literal[False] = False,
        timeout_ms: int | None = None,
    ) -> list[int | None]: ...
    @overload
    def get(
        self, keys: Sequence[Key], targets: Sequence[Block], *, with_meta: Literal[True], timeout_ms: int | None = None
    ) -> list[tuple[int, bytes] | None]: ...
    def get(
        self, keys: Sequence[Key], targets: Sequence[Block], *, with_meta: bool = False, timeout_ms: int | None = None
    ) -> list[int | None] | list[tuple[int, bytes] | None]:
        """Reads one block per key into its target and verifies it there.

        ``targets`` are writable contiguous buffers, or lists of them. Returns the block's size in bytes, or None for a
        miss: absent, longer than its target (then nothing is written), corrupt, or not here in time. After a miss the
        target's bytes are unspecified. On return no byte can land in a target any more. ``with_meta`` returns (size,
        meta) in place of the size.
        """
        started_s, deadline_s = self._begin(timeout_ms)
        batch = checked_keys(keys)
        parts, capacities = checked_blocks(targets, len(batch), writable=True)

        def make(positions: Sequence[int]) -> GetCall:
            return GetCall(
                positions,
                taken(batch, positions),
                taken(parts, positions),
                taken(capacities, positions),
                with_meta=with_meta,
                kind_min=self._kind,
            )

        lengths: list[int | None] = [None] * len(batch)
        metas: dict[int, bytes] = {}
        misses: dict[str, int] = {}
        received_bytes = retries = too_long_count = 0
        hashes = KeyHashes(batch, self._seed)
        positions: Sequence[int] = range(len(batch))
        for order in range(self._router.replicas):
            done, failed, retried = self._dispatcher.run(make, positions, hashes, capacities, deadline_s, order=order)
            retries += retried
            misses = _count({}, failed.values())
            corrupt: list[int] = []
            too_long_count = 0
            for call in done:
                received_bytes += call.received_bytes
                too_long_count += call.too_long_count
                corrupt.extend(call.positions[place] for place in call.corrupt)
                spread(call.lengths, call.positions, lengths)
                if call.metas is not None:
                    metas.update(zip(call.positions, call.metas))
            if corrupt:
                misses["corrupt"] = len(corrupt)
                self._report_corrupt(corrupt, batch, hashes, deadline_s, order)
            if None not in lengths:
                positions = ()
                break
            positions = [position for position, length in enumerate(lengths) if length is None]
        if too_long_count:
            misses["too_long"] = too_long_count
        _count_absent(misses, len(positions))
        hits = len(batch) - len(positions)
        self._end("get", started_s, hits, len(batch), misses, received_bytes=received_bytes, retries=retries)
        if not with_meta:
            return lengths
        return [None if length is None else (length, metas[at]) for at, length in enumerate(lengths)]

    def exists(self, keys: Sequence[Key], *, timeout_ms: int | None = None) -> list[bool]:
        """Whether each key is stored; False also where its server cannot say in time."""
        return self._statuses("exists", Opcode.EXISTS, keys, timeout_ms, every_replica=False)

    def delete(self, keys: Sequence[Key], *, timeout_ms: int | None = None) -> list[bool]:
        """Drops keys. True where a value was there and is gone."""
        return self._statuses("delete", Opcode.DELETE, keys, timeout_ms, every_replica=True)

    def lookup(self, keys: Sequence[Key], *, timeout_ms: int | None = None) -> int:
        """The length of the leading run of keys that exist."""
        started_s, deadline_s = self._begin(timeout_ms)
        batch = checked_keys(keys)
        if self._router.replicas > 1:
            found = self.exists(batch, timeout_ms=timeout_ms)
            run = found.index(False) if False in found else len(found)
        else:
            done, failed, _ = self._dispatcher.run(
                lambda positions: LookupCall(positions, taken(batch, positions)),
                range(len(batch)),
                KeyHashes(batch, self._seed),
                None,
                deadline_s,
            )
            ends = [call.positions[call.run] for call in done if call.run < call.key_count]
            run = min([len(batch), *ends, *failed])
        self._end("lookup", started_s, run, len(batch), {})
        return run

    def _statuses(
        self, name: str, opcode: Opcode, keys: Sequence[Key], timeout_ms: int | None, *, every_replica: bool
    ) -> list[bool]:
        started_s, deadline_s = self._begin(timeout_ms)
        batch = checked_keys(keys)
        hashes = KeyHashes(batch, self._seed)
        hit = [False] * len(batch)
        positions: Sequence[int] = range(len(batch))
        misses: dict[str, int] = {}
        retries = 0
        for order in range(self._router.replicas):
            done, failed, retried = self._dispatcher.run(
                lambda positions: KeysCall(opcode, positions, taken(batch, positions)),
                positions,
                hashes,
                None,
                deadline_s,
                order=order,
            )
            retries += retried
            for call in done:
                for position, status in zip(call.positions, call.statuses):
                    if status == Status.HIT:
                        hit[position] = True
            misses = _count({}, (cause for position, cause in failed.items() if not hit[position]))
            if not every_replica:
                positions = [position for position in positions if not hit[position]]
                if not positions:
                    break
        _count_absent(misses, hit.count(False))
        self._end(name, started_s, hit.count(True), len(batch), misses, retries=retries)
        return hit

    def _report_corrupt(
        self, corrupt: list[int], batch: list[bytes], hashes: KeyHashes | None, deadline_s: float, order: int
    ) -> None:
        """Asks the servers to read the blocks again and to drop them if it is the drive that lies."""
        _LOG.warning("%d blocks came back with other bytes than were put: counted as misses", len(corrupt))
        self._dispatcher.run(
            lambda positions: KeysCall(Opcode.VERIFY, positions, taken(batch, positions)),
            corrupt,
            hashes,
            None,
            deadline_s,
            order=order,
        )

    # -- the rest -----------------------------------------------------------------------------------------------------
    def stats(self) -> ClientStats:
        """Counters and latencies since start; cheap."""
        return self._recorder.snapshot(self._fleet.opened_count, self._transport.moves)

    def estimate(self, count_bytes: int) -> float | None:
        """How many milliseconds a get of so many bytes, spread over the servers, would take if it began now.

        From what this client's calls took lately (``memkv_core.estimates``): for each server that is in use its
        latency, its speed, and what this client has under way there; the slowest one counts. None while too little
        is known: before the third get, and when no get of a server was seen for 30 s. It knows nothing of a server
        whose blocks this client has not read, nor of whether the blocks are there, and what other clients do shows
        only in how long the last calls took. Cheap: no call goes out.
        """
        if count_bytes < 0:
            raise InvalidArgumentError(f"a get of {count_bytes} bytes", remedy="give 0 or more")
        used = [server for server in self.servers if self._fleet.allows(server)]
        expected_s = self._estimates.expected_s(count_bytes, used, time.monotonic())
        return None if expected_s is None else expected_s * 1e3

    def estimates(self) -> dict[str, ServerEstimate]:
        """What ``estimate`` stands on: speed, latency and queue of each server, as far as they are known."""
        return self._estimates.snapshot(time.monotonic())

    def count_declined(self, key_count: int) -> None:
        """Counts blocks that are there and that the caller does not read, since it has them sooner in another way.

        They stand in ``stats().misses`` under "declined".
        """
        self._recorder.misses({"declined": key_count})

    def servers_down(self) -> dict[str, str]:
        """The servers that are not used for now, each with what closed it off in one line; empty when all is well."""
        down = [server for server in self.servers if not self._fleet.allows(server)]
        return {server: str(self._fleet.cause(server) or "it did not answer") for server in down}

    def register(self, buffer: Buffer) -> Region:
        """Registers long-lived host memory once, where the transport gains by it (shm, rdma; a no-op over tcp)."""
        return self._transport.register(flat_view(buffer))

    def close(self) -> None:
        """Ends the connections; later calls raise ClientClosedError. Idempotent."""
        self._closed = True
        metric_clients.COUNTS.end(self)
        self._fleet.close()
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, timeout_ms: int | None) -> tuple[float, float]:
        if self._closed:
            raise ClientClosedError("the client is closed")
        started_s = time.monotonic()
        return started_s, started_s + checked_timeout_s(timeout_ms, self.config.timeout_ms)

    def _end(
        self,
        operation: str,
        started_s: float,
        hits: int,
        keys: int,
        misses: dict[str, int],
        *,
        sent_bytes: int = 0,
        received_bytes: int = 0,
        retries: int = 0,
    ) -> None:
        elapsed_s = time.monotonic() - started_s
        self._recorder.call(
            operation,
            elapsed_s,
            keys,
            hits,
            misses,
            sent_bytes=sent_bytes,
            received_bytes=received_bytes,
            retries=retries,
        )
        if self._tracer is not None:
            sizes = {"sent_bytes": sent_bytes, "received_bytes": received_bytes, "retries": retries}
            counts = {"keys": keys, "hits": hits, **sizes, **{f"misses.{cause}": misses[cause] for cause in misses}}
            self._tracer.call(operation, self.namespace, elapsed_s, counts)


def _count(misses: dict[str, int], causes: Iterable[str]) -> dict[str, int]:
    """Adds causes to a tally; a Counter would cost more than the rest of a small call."""
    for cause in causes:
        misses[cause] = misses.get(cause, 0) + 1
    return misses


def _count_absent(misses: dict[str, int], missed: int) -> None:
    """What missed without another cause was not there."""
    absent = missed - sum(misses.values())
    if absent > 0:
        misses["absent"] = absent


def _cause_of_status(status: int) -> str:
    return _CAUSES.get(status, "refused")  # also what a newer server may say
