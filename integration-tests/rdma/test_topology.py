# SPDX-License-Identifier: Apache-2.0
"""What /sys says is what the device says."""

from __future__ import annotations

import json

import pytest
import typer

from memkv_core.transports import pyverbs_binding, sysfs
from memkv_core.transports.verbs import DeviceSpec
from memkv_server.cli import net


def test_sysfs_and_pyverbs_agree() -> None:
    facts = {device.name: device for device in sysfs.read_devices()}
    assert sorted(facts) == ["rxe0", "rxe1"]
    for number in range(2):
        context = pyverbs_binding.load().open(DeviceSpec(f"rxe{number}"))
        port, (told,) = context.device.port, facts[f"rxe{number}"].ports
        assert (told.number, told.state, told.link_layer) == (port.number, port.state.name, port.link_layer)
        assert told.gids == port.gids
        assert told.interfaces == (f"wire{number}",)
        context.close()


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        net.topo(server=["a:9900"], device=["rxe0"], as_json=True)
    assert ended.value.exit_code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mapping"] == [{"server": "a:9900", "rail": "rxe0"}]
    assert told["library"].startswith("pyverbs on rdma-core ")
    assert told["problems"] == []
