# SPDX-License-Identifier: Apache-2.0
"""The durable registry of namespaces: which identity a namespace was first used with.

A log in the drive's registry space; an entry is written, and synced, before the namespace is used for the first
time. A torn entry at the end is what an interrupted start left: nobody was told of it, and the next one takes its
place. One entry, aligned to 8 bytes::

    0       4             6          8                12       16         24
    +-------+-------------+----------+----------------+--------+----------+------+----------+-------+
    | magic | name length | zeros    | identity       | zeros  | check    | name | identity | zeros |
    | u32   | u16         |          | length u32     |        | u64      |      |          |       |
    +-------+-------------+----------+----------------+--------+----------+------+----------+-------+

``check`` is the xxh3-64 of name and identity, seeded with the two lengths.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

import xxhash

from memkv_core.errors import StorageError
from memkv_core.limits import IDENTITY_BYTES_MAX, NAMESPACE_BYTES_MAX
from memkv_server.engine.base import Namespace
from memkv_server.engine.drive import Drive
from memkv_server.engine.limits import NAMESPACE_COUNT_MAX

_ENTRY: Final = struct.Struct("<IH2xI4xQ")
_ENTRY_MAGIC: Final = 0x534E4D02  # in memory: 02 'M' 'N' 'S'
assert _ENTRY.size == 24


def make_namespace(name: str, identity: bytes) -> Namespace:
    """The value that stands for a namespace; see ``Namespace`` for its fields."""
    identity_digest = hashlib.sha256(identity).digest() if identity else bytes(32)
    return Namespace(name, xxhash.xxh3_64_intdigest(name.encode()), identity_digest, identity)


def encode_entry(name: str, identity: bytes) -> bytes:
    """One entry of the log."""
    encoded = name.encode()
    check = xxhash.xxh3_64_intdigest(encoded + identity, len(encoded) << 32 | len(identity))
    entry = _ENTRY.pack(_ENTRY_MAGIC, len(encoded), len(identity), check) + encoded + identity
    return entry + bytes(-len(entry) % 8)


def decode_entries(log: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Name, identity and end of every entry, up to the first that is not whole."""
    at = 0
    while at + _ENTRY.size <= len(log):
        magic, name_bytes, identity_bytes, check = _ENTRY.unpack_from(log, at)
        name_at = at + _ENTRY.size
        identity_at = name_at + name_bytes
        end = identity_at + identity_bytes
        if magic != _ENTRY_MAGIC or end > len(log):
            return
        if xxhash.xxh3_64_intdigest(log[name_at:end], name_bytes << 32 | identity_bytes) != check:
            return
        at = end + (-(end - at) % 8)
        yield log[name_at:identity_at].decode(errors="replace"), log[identity_at:end], at


class NamespaceRegistry:
    """The namespaces of one drive."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._by_name: dict[str, Namespace] = {}
        self._by_hash: dict[int, Namespace] = {}
        self._tail = 0
        for name, identity, end in decode_entries(drive.registry_load()):
            self._remember(make_namespace(name, identity))
            self._tail = end

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def open(self, name: str, identity: bytes) -> Namespace | None:
        """See ``Engine.open_namespace``. Two names with one hash cannot both be used: the second is refused."""
        known = self._by_name.get(name)
        if known is not None:
            return known if known.identity == identity else None
        namespace = make_namespace(name, identity)
        if not 1 <= len(name.encode()) <= NAMESPACE_BYTES_MAX or len(identity) > IDENTITY_BYTES_MAX:
            return None
        if namespace.hash in self._by_hash:
            return None
        entry = encode_entry(name, identity)
        if len(self) >= NAMESPACE_COUNT_MAX or self._tail + len(entry) > self._drive.geometry.registry_bytes:
            raise StorageError(
                f"{self._drive.path or 'memory'}: the registry of namespaces is full, with {len(self)} in it",
                remedy="use fewer namespaces, or a store with a larger capacity",
            )
        self._drive.registry_append(self._tail, entry)
        self._tail += len(entry)
        self._remember(namespace)
        return namespace

    def _remember(self, namespace: Namespace) -> None:
        self._by_name[namespace.name] = namespace
        self._by_hash[namespace.hash] = namespace
