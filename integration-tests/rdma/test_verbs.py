# SPDX-License-Identifier: Apache-2.0
"""The verbs seam over pyverbs, on a device that is software all the way down."""

from __future__ import annotations

from memkv_core.testing.verbs_tests import VerbsTests
from memkv_core.transports import pyverbs_binding, verbs
from memkv_core.transports.verbs import DeviceSpec


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
