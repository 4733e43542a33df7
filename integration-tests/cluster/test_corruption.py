# SPDX-License-Identifier: Apache-2.0
"""Bytes flipped on the drive beneath a running node are a miss, are dropped, and are healed by the next put."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Cluster

BLOCK_BYTES = 256 * 1024


def _flip(path: os.PathLike[str], value: bytes) -> None:
    """Flips one bit in the middle of the stored copy of ``value``."""
    with open(path, "r+b") as file:
        content = file.read()
        at = content.index(value) + len(value) // 2
        file.seek(at)
        file.write(bytes([content[at] ^ 0x10]))


def test_flipped_bytes_are_a_miss_and_heal(node: Cluster) -> None:
    keys = ["good", "bad"]
    values = [os.urandom(BLOCK_BYTES) for _ in keys]
    targets = [bytearray(BLOCK_BYTES) for _ in keys]
    with node.client() as client:
        assert client.put(keys, values) == [True, True]
        assert client.get(keys, targets) == [BLOCK_BYTES, BLOCK_BYTES]
        _flip(node.segments(0), values[1])
        assert client.get(keys, targets) == [BLOCK_BYTES, None]
        assert bytes(targets[0]) == values[0]
        assert client.stats().misses["corrupt"] == 1
        assert client.exists(keys) == [True, False]  # the node was told, looked again, and dropped it
        assert node.status(0)["storage"]["corrupt_records"] == 1
        assert client.put(keys, values) == [True, True]
        assert client.get(keys, targets) == [BLOCK_BYTES, BLOCK_BYTES]
        assert [bytes(target) for target in targets] == values


def test_a_put_of_the_same_bytes_heals_what_nobody_has_read(node: Cluster) -> None:
    value = os.urandom(BLOCK_BYTES)
    target = bytearray(BLOCK_BYTES)
    with node.client() as client:
        assert client.put(["k"], [value]) == [True]
        _flip(node.segments(0), value)
        assert client.put(["k"], [value]) == [True]
        assert client.get(["k"], [target]) == [BLOCK_BYTES]
        assert bytes(target) == value


def test_flipped_while_the_node_was_down(node: Cluster) -> None:
    keys = ["good", "bad"]
    values = [os.urandom(BLOCK_BYTES) for _ in keys]
    targets = [bytearray(BLOCK_BYTES) for _ in keys]
    with node.client() as client:
        assert client.put(keys, values) == [True, True]
    node.down()
    _flip(node.segments(0), values[1])
    node.up()
    with node.client() as client:
        assert client.get(keys, targets) == [BLOCK_BYTES, None]
        assert bytes(targets[0]) == values[0]
