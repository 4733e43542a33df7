# SPDX-License-Identifier: Apache-2.0
"""The systemd unit: what systemd itself says of it, and a node started and stopped as it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy_rig.node import MEMKV, DeployedNode, credentials

SYSTEMD = Path(__file__).parents[2] / "packages/memkv-server/deploy/systemd"
UNIT = (SYSTEMD / "memkv.service").read_text()
EXPOSURE_MAX = 1.5  # of 10; systemd calls 1.4 "OK", and most units of a distribution are at 9


def setting(name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    assert len(found) == 1, name
    return str(found[0])


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the ``memkv`` of this environment, so that systemd finds it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    path = tmp_path / "memkv.service"
    path.write_text(UNIT.replace("/opt/memkv/bin/memkv", MEMKV))
    return path


def test_systemd_understands_all_of_it(unit: Path) -> None:
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


def test_it_is_hardened(unit: Path) -> None:
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={round(EXPOSURE_MAX * 10)}", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"Overall exposure level for memkv.service: [01]\.\d OK", ran.stdout), ran.stdout


def test_what_is_added_for_devices_is_understood(unit: Path) -> None:
    folder = unit.parent / "memkv.service.d"
    folder.mkdir()
    shutil.copy(SYSTEMD / "memkv.service.d/devices.conf.example", folder / "devices.conf")
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DeployedNode]:
    etc = tmp_path / "etc"
    etc.mkdir()
    credentials(etc)
    (etc / "config.yaml").write_text(
        f"network: {{address: '127.0.0.1:0', auth_key: {etc}/auth-key}}\n"
        f"storage: {{drives: [{{path: {tmp_path}/srv, capacity: 128MiB}}]}}\n"
        f"license: {etc}/license\nlicense_keys: {etc}/license-keys\n"
    )
    program, *arguments = shlex.split(setting("ExecStart"))
    assert program == "/opt/memkv/bin/memkv"
    made = DeployedNode(tmp_path, arguments, {"/etc/memkv": str(etc)})
    yield made
    made.close()


def test_a_node_starts_and_stops_as_it_says(node: DeployedNode) -> None:
    assert node.get("/v1/ready") == 200
    assert all(line.startswith("{") for line in node.log.read_text().splitlines())
    assert node.stop(float(setting("TimeoutStopSec"))) == 0, "Restart=on-failure would start it again"
