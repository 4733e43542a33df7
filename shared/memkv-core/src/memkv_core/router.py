# SPDX-License-Identifier: Apache-2.0
"""Placement: which server, and which of its lanes, holds a key. Pure; the C++ side computes the same (vectors).

    seed      = xxh3_64(namespace)
    hash      = xxh3_64(key, seed)
    slot      = hash % 4096                       ranks the servers
    lane slot = (hash >> 32) % 4096               ranks the lanes of the chosen server

A table of 4096 rows ranks the members by rendezvous hashing: the score of a member in a row is the greatest of
``weight`` draws xxh3_64(name, seed = row + 4096 × draw), the highest score comes first, equal scores by name. A member
that joins or leaves moves only the slots that it wins or held. Integer arithmetic only, so that every implementation
agrees to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

from memkv_core.errors import ConfigError
from memkv_core.limits import LANES_MAX, SERVERS_MAX, SLOT_COUNT

_xxh3_64 = xxhash.xxh3_64_intdigest


def namespace_seed(namespace: str) -> int:
    """The seed that every hash of a key in ``namespace`` starts from."""
    return _xxh3_64(namespace.encode())


def key_hash(key: bytes, seed: int) -> int:
    """The hash that places a key."""
    return _xxh3_64(key, seed)


class KeyHashes:
    """The placing hash of each key of a batch, computed when one is asked for: one server with one lane asks never."""

    __slots__ = ("_hashes", "_keys", "_seed")

    def __init__(self, keys: Sequence[bytes], seed: int) -> None:
        self._keys = keys
        self._seed = seed
        self._hashes: list[int] | None = None

    def at(self, positions: Sequence[int]) -> list[int]:
        """Those of the keys at these positions of the batch."""
        if self._hashes is None:
            self._hashes = [key_hash(key, self._seed) for key in self._keys]
        return [self._hashes[position] for position in positions]


def rank(names: Sequence[str], weights: Sequence[int] | None = None) -> npt.NDArray[np.uint16]:
    """The table: row = slot, columns = indices into ``names``, best first. Shape (4096, len(names)).

    ``weights`` are small positive integers (1 each by default). About 1 ms a member and unit of weight.
    """
    if not 1 <= len(names) <= SERVERS_MAX or len(set(names)) != len(names):
        raise ConfigError(f"{len(names)} servers", remedy=f"name 1 to {SERVERS_MAX} different servers")
    scores = np.empty((SLOT_COUNT, len(names)), np.uint64)
    for column, name in enumerate(names):
        encoded = name.encode()
        draws = weights[column] if weights is not None else 1
        for slot in range(SLOT_COUNT):
            scores[slot, column] = max(_xxh3_64(encoded, slot + SLOT_COUNT * draw) for draw in range(draws))
    by_name = np.array(sorted(range(len(names)), key=lambda column: names[column]), np.uint16)
    best_first = np.argsort(~scores[:, by_name], axis=1, kind="stable")  # ~ turns highest-first into lowest-first
    return by_name[best_first]


@lru_cache(maxsize=LANES_MAX)
def lane_table(lane_count: int) -> tuple[int, ...]:
    """The lane of each lane slot on a server of ``lane_count`` lanes."""
    return tuple(int(lane) for lane in rank([f"lane-{lane}" for lane in range(lane_count)])[:, 0])


class Router:
    """The placement of one membership. Immutable, shared by threads."""

    def __init__(self, servers: Sequence[str], *, replicas: int = 1, weights: Sequence[int] | None = None) -> None:
        self.servers = tuple(servers)
        self.replicas = min(replicas, len(self.servers))
        ranks = rank(self.servers, weights)[:, : self.replicas]
        self._ranks = [tuple(row) for row in ranks.tolist()]

    def servers_of(self, hashed: int) -> tuple[int, ...]:
        """Indices into ``servers`` of the ``replicas`` servers of a key's hash, best first."""
        return self._ranks[hashed % SLOT_COUNT]

    def place(self, hashes: Sequence[int], order: int = 0) -> list[int]:
        """For each hash the index of its ``order``-th server (0: the primary)."""
        ranks = self._ranks
        return [ranks[hashed % SLOT_COUNT][order] for hashed in hashes]


def lanes_of(hashes: Sequence[int], lane_count: int) -> list[int]:
    """For each hash its lane on a server of ``lane_count`` lanes."""
    table = lane_table(lane_count)
    return [table[(hashed >> 32) % SLOT_COUNT] for hashed in hashes]
