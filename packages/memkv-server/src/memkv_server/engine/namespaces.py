# SPDX-License-Identifier: Apache-2.0
"""What a namespace is, and what becomes of it when it is dropped.

A drop touches no record. It moves the namespace to a later *epoch*, and with it to another hash: the seed of its
keys' hashes, and what stands in its records. What was written before is under a hash that nobody asks for any more,
in the index and on the drive, before and after a restart, and goes with its segments.

Epochs are seconds of the clock, or one more than the last where the clock stands or goes back. So they never repeat
on a lane, and of two drives that did not hear of each other's drops the later drop has the higher epoch.
"""

from __future__ import annotations

import hashlib
import time

import xxhash

from memkv_server.engine.base import Namespace
from memkv_server.engine.segment import MASK64


def make_namespace(name: str, identity: bytes, epoch: int = 0) -> Namespace:
    """The value that stands for a namespace; see ``Namespace`` for its fields."""
    identity_digest = hashlib.sha256(identity).digest() if identity else bytes(32)
    return Namespace(name, namespace_hash(name, epoch), identity_digest, identity, epoch)


def namespace_hash(name: str, epoch: int) -> int:
    """xxh3-64 of the name's UTF-8 bytes, seeded with the epoch."""
    return xxhash.xxh3_64_intdigest(name.encode(), epoch)


def next_epoch(epoch: int) -> int:
    """The epoch that a drop begins, after this one."""
    return max(epoch + 1, int(time.time()))


def end_namespace(namespace: Namespace, epoch: int) -> None:
    """Dropped: who still holds it finds nothing under its hash, and has to open it again."""
    namespace.epoch, namespace.dropped = epoch, True
    namespace.hash = namespace_hash(namespace.name, ~epoch & MASK64)


def renew_namespace(known: Namespace | None, name: str, identity: bytes, epoch: int) -> Namespace:
    """The namespace in a new epoch: the object that sessions hold, where it has the same identity."""
    if known is None or known.identity != identity:
        return make_namespace(name, identity, epoch)
    known.epoch, known.dropped, known.hash = epoch, False, namespace_hash(name, epoch)
    return known
