# SPDX-License-Identifier: Apache-2.0
"""The verbs seam over pyverbs, on a device that is software all the way down."""

from __future__ import annotations

import gc
import os

import numpy as np

from memkv_core.testing.verbs_tests import KIB, Link, VerbsTests
from memkv_core.transports import pyverbs_binding, verbs
from memkv_core.transports.verbs import DeviceSpec, WorkKind, WorkStatus


class TestPyverbs(VerbsTests):
    def open_sides(self) -> tuple[verbs.Verbs, verbs.Context, verbs.Context]:
        found = pyverbs_binding.load()
        return found, found.open(DeviceSpec("rxe0")), found.open(DeviceSpec("rxe0"))


def test_the_devices_of_the_machine() -> None:
    found = pyverbs_binding.load()
    assert found.device_names() == ["rxe0", "rxe1"]
    assert found.name.startswith("pyverbs on rdma-core ")
    for number in range(2):
        context = found.open(DeviceSpec(f"rxe{number}"))
        assert context.device.gid.kind == "RoCE v2"
        assert context.device.gid.value[-4:] == bytes([10, 77, number, 1])
        context.close()


def test_a_child_leaves_the_parents_queue_pairs_alone() -> None:
    """Whatever it collects: the device is shared, and what it destroyed would be the parent's."""
    found = pyverbs_binding.load()
    contexts = found.open(DeviceSpec("rxe0")), found.open(DeviceSpec("rxe0"))
    link = Link(contexts)
    link.fill()
    child = os.fork()
    if not child:
        link.__dict__.clear()
        del contexts, link
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    link.post(WorkKind.WRITE, [(0, 0, KIB)])
    assert link.server.take(1)[0].status == WorkStatus.SUCCESS
    assert np.array_equal(link.client.memory[:KIB], link.server.memory[:KIB])
    for context in contexts:
        context.close()
