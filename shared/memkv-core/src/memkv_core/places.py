# SPDX-License-Identifier: Apache-2.0
"""Where a client's memory is, as it travels: regions, the places in them that values are at, rdma endpoints. Pure.

Over shm and rdma a PUT or GET has no payload: the server moves the bytes itself, from and to memory that the client
has registered (``shared/protocol/wire.md``, "What the server moves"). A batch's places are two arrays, never objects.

Places, after the metadata of a PUT or GET with the flag PLACED::

    ┌────────────────────┬────────────────────────────────────────────────┐
    │ parts u16 × count  │ region u32 │ offset u64 │ bytes u32 │ × parts │
    └────────────────────┴────────────────────────────────────────────────┘

REGISTER_REGION, the metadata of its request::

    0        4       5      6    8       16        24     28    32           64
    ┌────────┬───────┬──────┬────┬───────┬─────────┬──────┬─────┬────────────┐
    │ region │access │ kind │ 0  │ bytes │ address │ rkey │  0  │ nonce      │
    └────────┴───────┴──────┴────┴───────┴─────────┴──────┴─────┴────────────┘

CONNECT_RDMA, the metadata of its request and of its response::

    0     4     8     24    26    27     28      30      31       32
    ┌─────┬─────┬─────┬─────┬─────┬──────┬───────┬───────┬────────┐
    │ qpn │ psn │ gid │ lid │ mtu │ port │ depth │ reads │ device │
    └─────┴─────┴─────┴─────┴─────┴──────┴───────┴───────┴────────┘
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from memkv_core import limits
from memkv_core.errors import RemoteProtocolError

PART: Final = np.dtype([("region", "<u4"), ("offset", "<u8"), ("bytes", "<u4")])
PART_BYTES: Final = 16
NONCE_BYTES: Final = 32
_COUNT: Final = np.dtype("<u2")
_ONE: Final = b"\1\0"
_PART: Final = struct.Struct("<IQI")
ARRAY_MIN: Final = 24  # parts from which arrays are faster
_REGION: Final = struct.Struct("<IBBHQQII32s")
_ENDPOINT: Final = struct.Struct("<II16sHBBHBB")
assert (PART.itemsize, _REGION.size, _ENDPOINT.size) == (PART_BYTES, 64, 32)

_QPN_MAX: Final = (1 << 24) - 1  # queue pair and packet sequence numbers have 24 bits
_MTU_MAX: Final = 5  # 1: 256 bytes, ... 5: 4096


class Access:
    """What the server may do in a region; plain integers."""

    READ: Final = 1  # a PUT's values come from there
    WRITE: Final = 2  # a GET's values go there


class RegionKind(IntEnum):
    """How the server reaches a region."""

    SHM = 1
    RDMA = 2


class Places(NamedTuple):
    """Where the values of a batch are: ``counts[i]`` parts for value i, all parts one after the other."""

    counts: npt.NDArray[np.uint16]
    parts: npt.NDArray[np.void]  # of PART

    @property
    def one_each(self) -> bool:
        """Whether every value is in one part."""
        return len(self.parts) == len(self.counts) and self.counts.tobytes() == _ONE * len(self.counts)


class RegionRequest(NamedTuple):
    """A REGISTER_REGION. ``size_bytes`` 0 takes the region back."""

    region: int
    access: int
    kind: int
    size_bytes: int
    address: int = 0  # rdma: what its offset 0 is
    rkey: int = 0  # rdma
    nonce: bytes = bytes(NONCE_BYTES)  # shm


class Endpoint(NamedTuple):
    """One side of a queue pair."""

    qpn: int
    psn: int
    gid: bytes
    lid: int
    mtu: int
    port: int
    depth: int  # GETs that may be under way: the client keeps a receive posted for each
    reads: int  # RDMA READs that it takes part in at the same time
    device: int  # which of the WELCOME's devices; the response repeats it


def encode_places(places: Places) -> bytes:
    """What follows a PUT's or GET's metadata."""
    return places.counts.astype(_COUNT, copy=False).tobytes() + places.parts.tobytes()


def encode_run(count: int, staged: Mapping[int, tuple[int, int]], region: int, offset: int) -> bytes:
    """The same where values are in one part each, or empty, and all parts in one region: ``staged`` has, by the value's
    place among ``count``, (where its part begins after ``offset``, its bytes)."""
    counts = (
        _ONE * count if len(staged) == count else b"".join([_ONE if at in staged else b"\0\0" for at in range(count)])
    )
    if len(staged) < ARRAY_MIN:
        return counts + b"".join([_PART.pack(region, offset + start, size) for start, size in staged.values()])
    parts = np.empty(len(staged), PART)
    where = np.array(list(staged.values()), np.int64)
    parts["region"], parts["offset"], parts["bytes"] = region, where[:, 0] + offset, where[:, 1]
    return counts + parts.tobytes()


def decode_places(data: bytes | memoryview, sizes: Sequence[int]) -> Places:
    """The places of values of these sizes; RemoteProtocolError unless they fit them exactly.

    Whether the regions exist and hold them is not known here.
    """
    count = len(sizes)
    if count < ARRAY_MIN and len(data) == (2 + PART_BYTES) * count and data[: 2 * count] == _ONE * count:
        if [size for _, _, size in _PART.iter_unpack(data[2 * count :])] != list(sizes):
            raise _misfit()
        return Places(np.frombuffer(data, _COUNT, count), np.frombuffer(data, PART, count, 2 * count))
    if len(data) < 2 * count:
        raise RemoteProtocolError("metadata ends early")
    counts = np.frombuffer(data, _COUNT, count)
    part_count = int(counts.sum(dtype=np.int64))
    if part_count > limits.PLACED_PARTS_MAX:
        raise RemoteProtocolError(f"{part_count} parts in a frame, {limits.PLACED_PARTS_MAX} at most")
    if len(data) != 2 * count + PART_BYTES * part_count:
        raise RemoteProtocolError(f"{len(data) - 2 * count} bytes of {part_count} parts")
    parts = np.frombuffer(data, PART, part_count, 2 * count)
    ends = np.zeros(part_count + 1, np.int64)
    np.cumsum(parts["bytes"], out=ends[1:])
    bounds = np.zeros(count + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    if not np.array_equal(np.diff(ends[bounds]), np.asarray(sizes, np.int64)):
        raise _misfit()
    return Places(counts, parts)


def _misfit() -> RemoteProtocolError:
    return RemoteProtocolError("the parts of a value are not as long as the value")


def encode_region(request: RegionRequest) -> bytes:
    """The metadata of REGISTER_REGION."""
    return _REGION.pack(
        request.region, request.access, request.kind, 0, request.size_bytes, request.address, request.rkey, 0,
        request.nonce,
    )  # fmt: skip


def decode_region(metadata: bytes) -> RegionRequest:
    """A region within every bound; RemoteProtocolError names what is wrong."""
    if len(metadata) != _REGION.size:
        raise RemoteProtocolError(f"a region is described in {_REGION.size} bytes, not {len(metadata)}")
    region, access, kind, zero1, size_bytes, address, rkey, zero2, nonce = _REGION.unpack(metadata)
    if zero1 or zero2:
        raise RemoteProtocolError("reserved bits of REGISTER_REGION are set")
    if size_bytes and not 1 <= access <= (Access.READ | Access.WRITE):
        raise RemoteProtocolError(f"access {access} to a region")
    if kind not in tuple(RegionKind):
        raise RemoteProtocolError(f"a region of kind {kind}")
    if size_bytes > limits.REGION_BYTES_MAX or address > limits.ADDRESS_MAX - size_bytes:
        raise RemoteProtocolError(f"a region of {size_bytes} bytes at 0x{address:x}")
    return RegionRequest(region, access, kind, size_bytes, address, rkey, nonce)


def encode_endpoint(endpoint: Endpoint) -> bytes:
    """The metadata of CONNECT_RDMA."""
    return _ENDPOINT.pack(*endpoint)


def decode_endpoint(metadata: bytes) -> Endpoint:
    """An endpoint within every bound; RemoteProtocolError names what is wrong."""
    if len(metadata) != _ENDPOINT.size:
        raise RemoteProtocolError(f"an endpoint is described in {_ENDPOINT.size} bytes, not {len(metadata)}")
    endpoint = Endpoint(*_ENDPOINT.unpack(metadata))
    bounds: tuple[tuple[str, int, int], ...] = (
        ("qpn", 0, _QPN_MAX),
        ("psn", 0, _QPN_MAX),
        ("mtu", 1, _MTU_MAX),
        ("port", 1, 255),
        ("depth", 1, limits.RDMA_DEPTH_MAX),
        ("reads", 1, 255),
    )
    for name, least, most in bounds:
        value: Any = getattr(endpoint, name)
        if not least <= value <= most:
            raise RemoteProtocolError(f"an endpoint's {name} is {value}, not {least} to {most}")
    return endpoint
