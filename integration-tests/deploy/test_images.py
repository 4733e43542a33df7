# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles and the compose file: linted, held against their schema, and their commands run on a real node.

The images are not built here: there is no Docker daemon.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_rig.node import DeployedNode, credentials

DEPLOY = Path(__file__).parents[2] / "packages/memkv-server/deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def tool(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_is_clean(path: Path) -> None:
    # DL3008 and DL3013: packages of the base image and of the index follow their newest release on purpose.
    ran = subprocess.run(
        [tool("hadolint"), "--ignore", "DL3008", "--ignore", "DL3013", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_take_our_wheels_by_file_and_in_one_command(path: Path) -> None:
    copied = re.findall(r"dist/(memkv_\w+)-\*\.whl", path.read_text())
    allowed = re.findall(r"!dist/(memkv_\w+)-\*\.whl", path.with_name(path.name + ".dockerignore").read_text())
    assert copied == allowed
    assert copied[0] == "memkv_core"
    installs = re.findall(r"pip install (.*)", path.read_text())
    assert len(installs) == 1
    assert not re.search(r"\bmemkv[-_](core|server|sglang)\b", installs[0].replace("memkv-wheels", ""))


def test_compose_file_is_what_compose_reads() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    ran = subprocess.run([*command, str(DEPLOY / "compose/compose.yaml")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_what_compose_mounts_is_there() -> None:
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith(".") and not source.startswith("./secrets"):
                assert (DEPLOY / "compose" / source).exists(), mount
            elif not source.startswith("."):
                assert source in COMPOSE["volumes"], mount
        for secret in service.get("secrets", []):
            assert secret in COMPOSE["secrets"]


def test_prometheus_of_the_compose_file_scrapes_every_node() -> None:
    config = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    nodes = {name for name in COMPOSE["services"] if name.startswith("memkv-")}
    assert {target.removesuffix(":9901") for target in job["static_configs"][0]["targets"]} == nodes
    assert job["job_name"] == "memkv"  # as the alerts expect


def instructions(path: Path) -> dict[str, Any]:
    """The JSON forms of a Dockerfile's last ENTRYPOINT, CMD and HEALTHCHECK."""
    found: dict[str, Any] = {}
    for name, value in re.findall(
        r"^(?:HEALTHCHECK .*\\\n *)?(ENTRYPOINT|CMD) (\[.*\])$", path.read_text(), re.MULTILINE
    ):
        found[name if name in found or "admin" not in value else "HEALTHCHECK"] = json.loads(value)
    return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DeployedNode]:
    """The node of the compose file."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    credentials(secrets)
    service = COMPOSE["services"]["memkv-0"]
    arguments = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word).replace("8GiB", "128MiB") for word in service["command"]]
    moved = {
        "/run/secrets": str(secrets), "/etc/memkv": str(secrets), "/data": str(tmp_path / "data"),
        "0.0.0.0:9900": "127.0.0.1:0",
    }  # fmt: skip
    made = DeployedNode(tmp_path, arguments, moved)
    yield made
    made.close()


def test_a_node_starts_is_found_healthy_and_stops(node: DeployedNode) -> None:
    said = instructions(DEPLOY / "docker/server.Dockerfile")
    assert said["ENTRYPOINT"] == ["memkv"]
    health = node.run(*said["HEALTHCHECK"])
    assert health.returncode == 0, health.stdout + health.stderr
    assert node.stop(float(COMPOSE["services"]["memkv-0"]["stop_grace_period"].removesuffix("s"))) == 0
