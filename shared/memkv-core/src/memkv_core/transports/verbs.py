# SPDX-License-Identifier: Apache-2.0
"""The seam to RDMA: what the rdma transport and the server's mover use of verbs, and no more.

Reliable connected queue pairs, one-sided work, completions by epoll. ``pyverbs_binding.load()`` is the real thing,
``memkv_core.testing.fake_verbs`` the same over process memory; both pass ``memkv_core.testing.verbs_tests``. What is
made of this seam (chains of work requests, credits) is in ``work.py``.

How the parts belong together::

    Verbs ─ open(spec) ─ Context ┬ completion_queue(depth) ─────────── CompletionQueue (fd for epoll)
                                 └ protection_domain() ─ ProtectionDomain ┬ register(buffer, access) ─ MemoryRegion
                                                                          └ endpoint(queue, ...) ───── Endpoint

Nothing here blocks: a post hands work over, ``poll`` takes what is there. An object is used by one thread at a time,
different objects by different threads; ``Endpoint.to_error`` (the fence) may be called by any thread at any time.
Close in the reverse order of making; ``close`` is idempotent, and an object closes what was made from it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from memkv_core.errors import ConfigError, TransportError

RETRY_COUNT: Final = 6  # 7 means for ever on some devices
RNR_RETRY_COUNT: Final = 6  # receives are posted before the request that needs them: a peer without one is at fault
ACK_TIMEOUT: Final = 14  # 4.096 µs × 2^14, about 67 ms a try
MIN_RNR_TIMER: Final = 12  # 0.64 ms
HOP_LIMIT: Final = 64
READS_MAX: Final = 16  # RDMA READs under way at once
PARTS_MAX: Final = 16  # of a work request: more would make every entry of a send queue larger
MTU_BYTES: Final = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}


class VerbsError(TransportError):
    """A verb failed; the queue pair it was for is of no more use."""


class DeviceUnavailableError(VerbsError):
    """No RDMA here, or not with this device: no pyverbs, no such device, no active port, no GID. One line says which.

    ``auto`` falls back on it, ``rdma`` fails at start.
    """


class RegistrationError(VerbsError):
    """Memory could not be registered; names the number of bytes, and RLIMIT_MEMLOCK where that is too low."""


class CapacityError(VerbsError):
    """More endpoints or work than the device, the completion queue or the endpoint has room for."""


class Access(IntFlag):
    """What may be done to a region; the values of ``IBV_ACCESS_*``. A server gives LOCAL_WRITE and nothing else."""

    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4


ALL_ACCESS: Final = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ


class PortState(IntEnum):
    """The values of ``IBV_PORT_*``."""

    NOP = 0
    DOWN = 1
    INIT = 2
    ARMED = 3
    ACTIVE = 4
    ACTIVE_DEFER = 5


class QueuePairState(IntEnum):
    """The values of ``IBV_QPS_*``."""

    RESET = 0
    INIT = 1
    RTR = 2
    RTS = 3
    SQD = 4
    SQE = 5
    ERR = 6


class WorkKind(IntEnum):
    """What a chain does; a WRITE with an immediate value ends in WRITE_WITH_IMM."""

    WRITE = 0
    READ = 4


class WorkStatus(IntEnum):
    """How work ended; the values of ``IBV_WC_*``. Anything but SUCCESS has moved the queue pair to ERR."""

    SUCCESS = 0
    LOC_LEN_ERR = 1
    LOC_QP_OP_ERR = 2
    LOC_EEC_OP_ERR = 3
    LOC_PROT_ERR = 4
    WR_FLUSH_ERR = 5
    MW_BIND_ERR = 6
    BAD_RESP_ERR = 7
    LOC_ACCESS_ERR = 8
    REM_INV_REQ_ERR = 9
    REM_ACCESS_ERR = 10
    REM_OP_ERR = 11
    RETRY_EXC_ERR = 12
    RNR_RETRY_EXC_ERR = 13
    LOC_RDD_VIOL_ERR = 14
    REM_INV_RD_REQ_ERR = 15
    REM_ABORT_ERR = 16
    INV_EECN_ERR = 17
    INV_EEC_STATE_ERR = 18
    FATAL_ERR = 19
    RESP_TIMEOUT_ERR = 20
    GENERAL_ERR = 21


class DeviceSpec(NamedTuple):
    """One entry of MEMKV_RDMA_DEVICES: ``name``, ``name:port`` or ``name:port:gid_index``. 0 and -1: the first fit."""

    name: str
    port: int = 0
    gid_index: int = -1

    @classmethod
    def parse(cls, text: str) -> DeviceSpec:
        """ConfigError names the entry and what is accepted."""
        name, *numbers = text.strip().split(":")
        if (
            not name
            or "/" in name
            or len(numbers) > 2
            or not all(part.isascii() and part.isdigit() for part in numbers)
        ):
            raise ConfigError(
                f"MEMKV_RDMA_DEVICES: {text!r} is no device", remedy="name it as mlx5_0, mlx5_0:1 or mlx5_0:1:3"
            )
        port, gid_index = [*map(int, numbers), *(0, -1)[len(numbers) :]]
        return cls(name, port, gid_index)


class Gid(NamedTuple):
    """One entry of a port's GID table."""

    place: int  # in the table
    value: bytes  # 16
    kind: str  # "IB", "RoCE v1" or "RoCE v2"


class Port(NamedTuple):
    """One port. ``mtu`` is 1 to 5 (MTU_BYTES); ``link_layer`` is "InfiniBand" or "Ethernet"."""

    number: int
    state: PortState
    mtu: int
    lid: int
    link_layer: str
    gids: tuple[Gid, ...]


class Device(NamedTuple):
    """What a device can do, as the endpoints of one port are bounded by it."""

    name: str
    port: Port  # the one in use
    gid: Gid  # the one in use
    sge_max: int  # parts of one work request on this side
    message_bytes_max: int  # of one work request
    reads_max: int  # RDMA READs of one queue pair under way, at most READS_MAX
    work_max: int  # work requests that a queue pair holds
    entries_max: int  # of a completion queue
    queue_pairs_max: int


class Peer(NamedTuple):
    """One side of a queue pair, as the other needs it."""

    qpn: int
    psn: int
    gid: bytes
    lid: int
    mtu: int
    reads: int  # RDMA READs that it takes part in at the same time


class WorkRequest(NamedTuple):
    """A piece of remote memory, and the local parts ``(address, bytes, lkey)`` that are together as long."""

    remote: int
    rkey: int
    parts: Sequence[tuple[int, int, int]]


class Completion(NamedTuple):
    """A piece of work that ended. ``imm`` is the immediate value where a peer's write consumed a receive, else None."""

    wr_id: int
    status: int  # WorkStatus, or a newer value
    qpn: int
    imm: int | None = None


class CompletionQueue(Protocol):
    """Completions of any number of endpoints. Never overflows: each endpoint reserves room for all of its work."""

    fd: int  # readable once after ``arm``, when something has come; for epoll
    depth: int
    free: int  # entries that no endpoint has reserved

    def poll(self, limit: int = 64) -> list[Completion]:
        """What has come, at most ``limit``; empty when nothing has."""

    def arm(self) -> None:
        """Takes the events of ``fd`` and asks for the next. Poll until empty afterwards, or a wake-up is lost."""

    def close(self) -> None:
        """Ends the endpoints on it."""


class MemoryRegion(Protocol):
    """Registered memory; holds on to the buffer until ``close``."""

    address: int
    size_bytes: int
    access: Access
    lkey: int
    rkey: int

    def close(self) -> None:
        """Deregisters it: no peer reaches it any more. VerbsError where the device refuses."""


class Endpoint(Protocol):
    """One RC queue pair. Made in INIT: receives may be posted, sends once it is connected."""

    qpn: int
    local: Peer  # what the other side needs
    send_depth: int
    receive_depth: int
    device: Device

    def connect(self, peer: Peer) -> None:
        """To RTR and RTS, with the smaller MTU and the smaller number of reads. VerbsError."""

    def post(self, kind: WorkKind, requests: Sequence[WorkRequest], wr_id: int, imm: int | None = None) -> None:
        """One call for the whole chain, of at least one request; the last is signalled and carries ``imm``.

        At most ``send_depth`` requests may be under way (credits: ``work.SendQueue``), each at most
        ``device.message_bytes_max`` and ``device.sge_max`` parts. Every request has the same ``wr_id``: where one
        fails, its completion and those of all after it bear it, signalled or not. A request without parts moves
        nothing (with ``imm``: for the immediate value's sake). VerbsError where nothing was posted.
        """

    def post_receives(self, count: int, wr_id: int) -> None:
        """Lets the peer write ``count`` immediate values. At most ``receive_depth`` may be posted. VerbsError."""

    def state(self) -> QueuePairState:
        """As the device says it is now."""

    def to_error(self) -> None:
        """The fence: when it returns no work of either side moves a byte any more; all that is posted is flushed.

        By any thread, at any time, any number of times. VerbsError where the device refuses.
        """

    def close(self) -> None:
        """Destroys the queue pair; a fence as well. Completions that were not polled may be lost."""


class ProtectionDomain(Protocol):
    """What regions and endpoints share: an endpoint reaches no memory outside its domain."""

    def register(self, buffer: Any, access: Access) -> MemoryRegion:
        """Pins and registers a buffer (all of it). Takes as long as touching its pages. RegistrationError."""

    def endpoint(
        self, queue: CompletionQueue, send_depth: int, receive_depth: int = 1, access: Access = ALL_ACCESS
    ) -> Endpoint:
        """A queue pair in INIT; ``access`` is what the peer may do at all, whatever a region allows it.

        A server gives LOCAL_WRITE. CapacityError where the queue or the device has no room for it; VerbsError.
        """

    def close(self) -> None:
        """Ends its endpoints and regions."""


class Context(Protocol):
    """An open device with an active port and a GID."""

    device: Device

    def protection_domain(self) -> ProtectionDomain:
        """A new one. VerbsError."""

    def completion_queue(self, depth: int) -> CompletionQueue:
        """A new one with at least ``depth`` entries. CapacityError, VerbsError."""

    def active(self) -> bool:
        """Whether the port is active at this moment."""

    def close(self) -> None:
        """Ends all that was made from it."""


class Verbs(Protocol):
    """A way to RDMA devices."""

    name: str  # for logs: "pyverbs 44", "fake"

    def device_names(self) -> list[str]:
        """The devices of this host, sorted; empty where there are none."""

    def open(self, spec: DeviceSpec) -> Context:
        """DeviceUnavailableError says why not: unknown (and which there are), port not active, no GID."""


class Memory(NamedTuple):
    """A buffer's bytes, and what keeps them where they are."""

    address: int
    size_bytes: int
    writable: bool
    kept: npt.NDArray[np.uint8]


def memory_of(buffer: Any) -> Memory:
    """Where a contiguous buffer is; it cannot be closed or resized while the result lives. RegistrationError."""
    try:
        kept: npt.NDArray[np.uint8] = np.frombuffer(buffer, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise RegistrationError(f"memory that cannot be registered: {error}") from error
    return Memory(kept.ctypes.data, kept.nbytes, bool(kept.flags.writeable), kept)


def port_gid_text(gid: bytes) -> str:
    """A GID as the tools print it: eight groups of four hexadecimal digits."""
    return ":".join(gid[at : at + 2].hex() for at in range(0, 16, 2))


def status_name(status: int) -> str:
    """``REM_ACCESS_ERR`` for 10; the number itself where it has no name here."""
    return WorkStatus(status).name if status in WorkStatus._value2member_map_ else f"status {status}"
