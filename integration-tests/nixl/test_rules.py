# SPDX-License-Identifier: Apache-2.0
"""What may go wrong between NIXL's core and a backend, and does in others: lifetimes, threads, forks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from memkv_rig.cluster import Cluster
from nixl_rig.transfers import BACKEND, Rig, build, random_blocks, rows, whole

from memkv_core import Client
from memkv_nixl._compat import load_api
from memkv_nixl.agents import TransferError

KEYS = Callable[[int], list[str]]
POISON = 0xAA
MIB = 1024 * 1024


def test_a_handle_is_posted_again(rig: Rig, client: Client, keys: KEYS) -> None:
    names, source = keys(4), random_blocks(4, 1000)
    registered, ids = rig.register(names, 1000)
    buffer = rig.register_buffer(source)
    handle = rig.prepare("WRITE", rows(source), whole(ids, 1000))
    for _ in range(5):
        source[:] = random_blocks(4, 1000)
        assert rig.finish(handle, rig.agent.transfer(handle)) == "DONE"
        target = np.zeros_like(source)
        assert client.get(names, list(target)) == [1000] * 4
        assert np.array_equal(source, target)
    rig.agent.release_xfer_handle(handle)
    rig.deregister(registered, buffer)


def test_a_handle_is_posted_while_it_is_under_way(cluster: Cluster, rig: Rig, keys: KEYS) -> None:
    names, source = keys(8), random_blocks(8, 1000)
    registered, ids = rig.register(names, 1000)
    buffer = rig.register_buffer(source)
    handle = rig.prepare("WRITE", rows(source), whole(ids, 1000))
    with cluster.frozen(0), cluster.frozen(1):
        state = rig.agent.transfer(handle)
        assert state == "PROC"
        with pytest.raises(load_api(build()).nixlBind.nixlRepostActiveError):
            rig.agent.transfer(handle)
    assert rig.finish(handle, state) == "DONE"
    assert rig.exists(names) == [True] * 8
    rig.agent.release_xfer_handle(handle)
    rig.deregister(registered, buffer)


def test_the_verdict_comes_when_all_objects_have_settled(rig: Rig, keys: KEYS) -> None:
    """One that is missing is known at once, while the others are still being read into the caller's memory."""
    names, source = keys(33), random_blocks(33, 2 * MIB)
    rig.write(names[:32], source[:32])
    for order in (names, names[::-1]):
        target = np.zeros_like(source)
        registered, ids = rig.register(order, 2 * MIB)
        buffer = rig.register_buffer(target)
        with pytest.raises(load_api(build()).nixlBind.nixlNotFoundError):
            rig.run("READ", rows(target), whole(ids, 2 * MIB))
        target[:] = POISON
        again = np.zeros_like(source[:32])
        rig.read(names[:32], again)  # over the same threads and servers: what was under way has passed by
        assert np.array_equal(source[:32], again)
        assert (target == POISON).all()
        rig.deregister(registered, buffer)


def test_a_read_is_posted_again_after_a_miss(rig: Rig, client: Client, keys: KEYS) -> None:
    names, source = keys(2), random_blocks(2, 1000)
    target = np.zeros_like(source)
    registered, ids = rig.register(names, 1000)
    buffer = rig.register_buffer(target)
    handle = rig.prepare("READ", rows(target), whole(ids, 1000))
    with pytest.raises(load_api(build()).nixlBind.nixlNotFoundError):
        rig.finish(handle, rig.agent.transfer(handle))
    assert client.put(names, list(source)) == [True, True]
    assert rig.finish(handle, rig.agent.transfer(handle)) == "DONE"
    assert np.array_equal(source, target)
    rig.agent.release_xfer_handle(handle)
    rig.deregister(registered, buffer)


def test_duplicate_descriptors(rig: Rig, keys: KEYS) -> None:
    """NIXL gives the same registration back twice; two equal descriptors of a write are one object."""
    (name,), source = keys(1), random_blocks(2, 1000)
    buffer = rig.register_buffer(source)
    described = [(0, 1000, 900_001, name)] * 2
    registered = rig.agent.register_memory(described, "OBJ", backends=[BACKEND])
    rig.run("WRITE", rows(source), whole([900_001] * 2, 1000))
    target = np.zeros_like(source)
    read = rig.register_buffer(target)
    rig.run("READ", rows(target), whole([900_001] * 2, 1000))
    assert np.array_equal(target[0], source[1]), "the last of two equal ones counts"
    assert np.array_equal(target[1], source[1])
    rig.deregister(registered, buffer, read)
    rig.write(keys(1), source[:1])  # and the engine is as well as before


def test_registrations_may_go_while_a_transfer_is_under_way(rig: Rig, keys: KEYS) -> None:
    names, source = keys(16), random_blocks(16, MIB)
    registered, ids = rig.register(names, MIB)
    buffer = rig.register_buffer(source)
    handle = rig.prepare("WRITE", rows(source), whole(ids, MIB))
    state = rig.agent.transfer(handle)
    rig.deregister(registered)
    assert rig.finish(handle, state) == "DONE"
    rig.agent.release_xfer_handle(handle)
    target = np.zeros_like(source)
    rig.read(names, target)
    assert np.array_equal(source, target)
    rig.deregister(buffer)


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 0.004, 0.01])
def test_nothing_is_written_after_a_release(rig: Rig, keys: KEYS, wait_s: float) -> None:
    names, source = keys(32), random_blocks(32, 2 * MIB)
    rig.write(names, source)
    target = np.zeros_like(source)
    registered, ids = rig.register(names, 2 * MIB)
    buffer = rig.register_buffer(target)
    handle = rig.prepare("READ", rows(target), whole(ids, 2 * MIB))
    rig.agent.transfer(handle)
    time.sleep(wait_s)  # not a synchronisation: it chooses where in the transfer the release comes
    rig.agent.release_xfer_handle(handle)
    target[:] = POISON
    again = np.zeros_like(source)
    rig.read(names, again)  # over the same threads and servers: what was under way has passed by
    assert np.array_equal(source, again)
    assert (target == POISON).all()
    rig.deregister(registered, buffer)


def test_a_write_that_is_released_leaves_whole_blocks(rig: Rig, client: Client, keys: KEYS) -> None:
    names, source = keys(32), random_blocks(32, 2 * MIB)
    kept = source.copy()
    registered, ids = rig.register(names, 2 * MIB)
    buffer = rig.register_buffer(source)
    handle = rig.prepare("WRITE", rows(source), whole(ids, 2 * MIB))
    rig.agent.transfer(handle)
    rig.agent.release_xfer_handle(handle)
    source[:] = POISON  # is in no block: it is not read any more
    rig.write(keys(1), random_blocks(1, 10))
    target = np.zeros_like(source)
    for name, block, was in zip(names, target, kept):
        if client.get([name], [block]) == [2 * MIB]:
            assert np.array_equal(block, was)
    rig.deregister(registered, buffer)


def test_threads_and_agents_at_once(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    failures: list[BaseException] = []
    first, second = Rig(namespace), Rig(namespace)
    sync = build().version >= "1.1"  # NIXL 1.0 has no lock of its own around an agent

    def storm(rig: Rig, number: int) -> None:
        try:
            for _ in range(25):
                names, source = keys(4), random_blocks(4, 16_384)
                rig.write(names, source)
                target = np.zeros_like(source)
                (second if rig is first and sync else rig).read(names, target)
                assert np.array_equal(source, target)
                assert rig.exists(names) == [True] * 4
        except BaseException as error:  # noqa: BLE001 -- shown by the test, which is another thread
            failures.append(error)

    agents = [first, second] * 2 if sync else [first, second]
    threads = [threading.Thread(target=storm, args=(rig, number)) for number, rig in enumerate(agents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not failures, failures[0]
    with first, second:
        assert first.name != second.name


def test_an_agent_goes_with_a_transfer_under_way(cluster: Cluster, namespace: str, keys: KEYS) -> None:
    names, source = keys(32), random_blocks(32, MIB)
    with Rig(namespace) as rig:
        rig.write(names, source)
    for _ in range(5):
        target = np.zeros_like(source)
        with Rig(namespace) as rig:
            _, ids = rig.register(names, MIB)
            rig.register_buffer(target)
            handle = rig.prepare("READ", rows(target), whole(ids, MIB))
            rig.agent.transfer(handle)
            rig.agent.release_xfer_handle(handle)
        target[:] = POISON
    with Rig(namespace) as rig:
        again = np.zeros_like(source)
        rig.read(names, again)
    assert np.array_equal(source, again)
    assert (target == POISON).all()


def test_a_fork(rig: Rig, namespace: str, keys: KEYS) -> None:
    """The child's copy of the agent answers with an error at once; an agent of its own works."""
    names, source = keys(2), random_blocks(2, 1000)
    rig.write(names, source)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                rig.exists(names)
            except TransferError as error:
                code = 2 if "NIXL_ERR_BACKEND" in str(error) else 4
            target = np.zeros_like(source)
            if code == 2:
                own = Rig(namespace)
                own.read(names, target)
                code = 0 if np.array_equal(source, target) else 3
        finally:
            os._exit(code)
    until_s = time.monotonic() + 60
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < until_s:
        time.sleep(0.02)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended, "the child hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    target = np.zeros_like(source)
    rig.read(names, target)  # the parent is as it was
    assert np.array_equal(source, target)
