# SPDX-License-Identifier: Apache-2.0
"""Transfers and queries of a real agent against a live cluster of two nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from memkv_rig.cluster import Cluster
from nixl_rig.transfers import BACKEND, Rig, random_blocks, rows, whole

from memkv_core import Client
from memkv_nixl.agents import TransferError

KEYS = Callable[[int], list[str]]
MIB = 1024 * 1024


def errors(rig: Rig) -> Any:
    """NIXL's exceptions."""
    from nixl_rig.transfers import build

    from memkv_nixl._compat import load_api

    return load_api(build()).nixlBind


def test_what_the_plugin_writes_everyone_reads(rig: Rig, client: Client, keys: KEYS) -> None:
    names, source = keys(64), random_blocks(64, MIB)
    assert rig.exists(names) == [False] * 64
    rig.write(names, source)
    assert rig.exists([*names, "never stored"]) == [True] * 64 + [False]
    target = np.zeros_like(source)
    rig.read(names, target)
    assert np.array_equal(source, target)
    target[:] = 0
    assert client.get(names, list(target)) == [MIB] * 64
    assert np.array_equal(source, target)


def test_both_nodes_hold_some(cluster: Cluster, rig: Rig, client: Client, keys: KEYS) -> None:
    names = keys(64)
    rig.write(names, random_blocks(64, 1024))
    for server in client.servers:
        with Client(client.config.model_copy(update={"servers": (server,)})) as one:
            assert 10 <= sum(one.exists(names)) <= 54, "placement puts about half of the keys on each"


def test_what_the_python_client_writes_the_plugin_reads(rig: Rig, client: Client, keys: KEYS) -> None:
    names, source = keys(64), random_blocks(64, MIB)
    assert client.put(names, list(source)) == [True] * 64
    target = np.zeros_like(source)
    rig.read(names, target)
    assert np.array_equal(source, target)


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 1), (3, 16), (64, 16), (1, 16 * MIB - 4096), (7, 65_537), (9, 512 * 1024 + 1), (5, 9 * MIB), (1000, 100)],
)
def test_sizes(rig: Rig, client: Client, keys: KEYS, count: int, size: int) -> None:
    names, source = keys(count), random_blocks(count, size)
    rig.write(names, source)
    target = np.zeros_like(source)
    rig.read(names, target)
    assert np.array_equal(source, target)
    assert rig.exists(names) == [True] * count


def test_unaligned_memory(rig: Rig, keys: KEYS) -> None:
    source, target = random_blocks(1, 5000)[0], np.zeros(5000, np.uint8)
    (name,) = keys(1)
    registered, (number,) = rig.register([name], 4097)
    buffers = [rig.register_buffer(source), rig.register_buffer(target)]
    rig.run("WRITE", [(source.ctypes.data + 3, 4097)], [(0, 4097, number)])
    rig.run("READ", [(target.ctypes.data + 5, 4097)], [(0, 4097, number)])
    assert np.array_equal(target[5 : 5 + 4097], source[3 : 3 + 4097])
    assert not target[:5].any()
    assert not target[5 + 4097 :].any()
    rig.deregister(registered, *buffers)


def test_a_block_is_replaced(rig: Rig, keys: KEYS) -> None:
    names = keys(2)
    for size in (1000, 3000, 10):
        source = random_blocks(2, size)
        rig.write(names, source)
        target = np.zeros_like(source)
        rig.read(names, target)
        assert np.array_equal(source, target)


def test_parts_make_one_object(rig: Rig, client: Client, keys: KEYS) -> None:
    """As a layout with a part for each layer writes them: two objects of three parts, in any order."""
    names, source = keys(2), random_blocks(6, 1000)
    registered, ids = rig.register(names, 3000)
    buffer = rig.register_buffer(source)
    order = [4, 0, 2, 3, 1, 5]
    memory = [rows(source)[part] for part in order]
    rig.run("WRITE", memory, [(1000 * (part % 3), 1000, ids[part // 3]) for part in order])
    target = np.zeros((2, 3000), np.uint8)
    assert client.get(names, list(target)) == [3000, 3000]
    assert np.array_equal(target.reshape(6, 1000), source)
    rig.deregister(registered, buffer)


def test_ranges_of_an_object(rig: Rig, keys: KEYS) -> None:
    (name,), value = keys(1), random_blocks(1, 10_000)
    rig.write([name], value)
    target = np.zeros((5, 2000), np.uint8)
    registered, (number,) = rig.register([name], 10_000)
    buffer = rig.register_buffer(target)
    offsets = [0, 3000, 8000, 3500, 1000]  # a gap, an overlap, out of order; the object goes on behind the last
    rig.run("READ", rows(target), [(offset, 2000, number) for offset in offsets])
    for part, offset in zip(target, offsets):
        assert np.array_equal(part, value[0, offset : offset + 2000])
    target[:] = 0
    rig.run("READ", rows(target)[:1], [(0, 2000, number)])  # the beginning alone
    assert np.array_equal(target[0], value[0, :2000])
    rig.deregister(registered, buffer)


def test_a_write_with_a_gap_is_refused(rig: Rig, keys: KEYS) -> None:
    source = random_blocks(2, 100)
    registered, (number,) = rig.register(keys(1), 300)
    buffer = rig.register_buffer(source)
    for objects in ([(0, 100, number), (200, 100, number)], [(100, 100, number), (200, 100, number)]):
        with pytest.raises(errors(rig).nixlInvalidParamError):
            rig.prepare("WRITE", rows(source), objects)
    rig.deregister(registered, buffer)


def test_reading_more_than_there_is(rig: Rig, keys: KEYS) -> None:
    names = keys(2)
    rig.write(names, random_blocks(2, 1000))
    target = np.full((2, 2000), 0xAA, np.uint8)
    registered, ids = rig.register(names, 2000)
    buffer = rig.register_buffer(target)
    with pytest.raises(errors(rig).nixlMismatchError):
        rig.run("READ", rows(target), whole(ids, 2000))
    assert (target == 0xAA).all(), "never a short fill"
    rig.deregister(registered, buffer)


def test_a_missing_key_is_not_found(rig: Rig, keys: KEYS) -> None:
    names = keys(3)
    rig.write(names[:2], random_blocks(2, 1000))
    target = np.zeros((3, 1000), np.uint8)
    registered, ids = rig.register(names, 1000)
    buffer = rig.register_buffer(target)
    with pytest.raises(errors(rig).nixlNotFoundError):
        rig.run("READ", rows(target), whole(ids, 1000))
    rig.run("READ", rows(target)[:2], whole(ids[:2], 1000))
    rig.deregister(registered, buffer)


def test_one_error_code_for_all_failures(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    """As NIXL's OBJ backend has it, for engines that catch no other."""
    with Rig(namespace, error_codes="backend") as rig:
        names = keys(2)
        rig.write(names[:1], random_blocks(1, 1000))
        with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
            rig.read(names, np.zeros((2, 1000), np.uint8))
        with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
            rig.read(names[:1], np.zeros((1, 2000), np.uint8))
        rig.read(names[:1], np.zeros((1, 1000), np.uint8))
        assert rig.exists(names) == [True, False]


def test_without_a_name_the_device_id_is_the_key(rig: Rig, client: Client) -> None:
    source = random_blocks(2, 500)
    ids = [2**63 + 17, 4711]
    described = [(0, 500, number, "") for number in ids]
    registered = rig.agent.register_memory(described, "OBJ", backends=[BACKEND])
    buffer = rig.register_buffer(source)
    rig.run("WRITE", rows(source), whole(ids, 500))
    assert client.exists([str(number) for number in ids]) == [True, True]
    found = rig.agent.query_memory([*described, (0, 500, 1, "")], BACKEND, "OBJ")
    assert [one is not None for one in found] == [True, True, False]
    rig.deregister(registered, buffer)


def test_large_query(rig: Rig, keys: KEYS) -> None:
    names = keys(10_000)
    rig.write(names[::100], random_blocks(100, 64))
    found = rig.exists(names)
    assert [at for at, there in enumerate(found) if there] == list(range(0, 10_000, 100))


def test_keys_out_of_bounds(rig: Rig) -> None:
    with pytest.raises(TransferError, match="INVALID_PARAM"):
        rig.exists(["k" * 513])
    rig.write(["k" * 512], random_blocks(1, 10))
    assert rig.exists(["k" * 512]) == [True]


@pytest.mark.parametrize("integrity", ["xxh3", "sha256"])
def test_digests_are_those_of_the_python_client(
    cluster: Cluster, namespace: str, client: Client, keys: KEYS, integrity: str
) -> None:
    with Rig(namespace, integrity=integrity) as rig:
        names, source = keys(4), random_blocks(4, 3 * MIB)
        rig.write(names, source)
        target = np.zeros_like(source)
        rig.read(names, target)
        assert np.array_equal(source, target)
        assert client.get(names, list(target)) == [3 * MIB] * 4


def test_replicas_are_on_both_nodes(cluster: Cluster, namespace: str, client: Client, keys: KEYS) -> None:
    with Rig(namespace, replicas="2") as rig:
        names, source = keys(8), random_blocks(8, 1000)
        rig.write(names, source)
        for server in client.servers:
            with Client(client.config.model_copy(update={"servers": (server,)})) as one:
                assert one.exists(names) == [True] * 8
                assert one.delete(names[:4]) == [True] * 4
            target = np.zeros((4, 1000), np.uint8)
            rig.read(names[4:], target)
            assert np.array_equal(target, source[4:])


def test_file_segments_by_path(cluster: Cluster, namespace: str, client: Client) -> None:
    paths = [f"/kv/{namespace}/{number}" for number in range(4)]
    source, target = random_blocks(4, 4096), np.zeros((4, 4096), np.uint8)
    with Rig(namespace, kind="FILE") as rig:
        rig.transfer("WRITE", source, [(number, f"rw,create,direct:{path}") for number, path in enumerate(paths)])
        rig.transfer("READ", target, [(number + 10, f"ro:{path}") for number, path in enumerate(paths)])
        assert np.array_equal(source, target)
        assert rig.exists([*paths, "/kv/none"]) == [True] * 4 + [False]
        assert client.exists(paths) == [True] * 4
        rig.deregister(rig.agent.register_memory([(0, 4096, 20, f"rw:{paths[0]}")], "FILE", backends=[BACKEND]))
        for meta in ("rw:/nonexistent-nixl-probe", "no path at all", "xx:/kv"):
            with pytest.raises((errors(rig).nixlBackendError, errors(rig).nixlNotSupportedError)):
                rig.agent.register_memory([(0, 4096, 21, meta)], "FILE", backends=[BACKEND])
