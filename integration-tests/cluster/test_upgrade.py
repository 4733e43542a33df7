# SPDX-License-Identifier: Apache-2.0
"""The release before against this one, in both directions and on the same drives.

Its wheels are those in the folder that MEMKV_PREVIOUS_WHEELS names, else made from the newest tag ``v*`` of another
version; where there is neither, there has been no release yet. They are installed into a folder of their own, which
comes first for the processes that are to be of that release.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_core import __version__
from memkv_core.authority import Authority

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared/memkv-core", "packages/memkv-server")
READY = re.compile(r"memkv node ready address=(\S+)")
KEY = "c3" * 32
KEYS = 200
CLIENT = f"""
import sys
from memkv_core import Client, ClientConfig, __version__
client = Client(ClientConfig.load())
keys = [b"%s-%d" % (sys.argv[2].encode(), number) for number in range({KEYS})]
values = [key * 500 for key in keys]
if sys.argv[1] == "put":
    assert client.put(keys, values) == [True] * {KEYS}, client.stats()
targets = [bytearray(len(value)) for value in values]
assert client.get(keys, targets) == [len(value) for value in values], client.stats()
assert targets == values
print(__version__, client.stats().misses)
"""


def newest_tag() -> str | None:
    listed = subprocess.run(
        ["git", "tag", "--list", "v*", "--sort=-version:refname"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return next((tag for tag in listed.stdout.split() if tag != f"v{__version__}"), None)


def wheels_of(tag: str, folder: Path) -> list[Path]:
    """Core and server of a tag, built from its files."""
    archive = subprocess.run(["git", "archive", tag, *PACKAGES], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder / "tree", filter="data")
    trees = [str(folder / "tree" / package) for package in PACKAGES]
    made = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder / "wheels")]
    subprocess.run([*made, *trees], check=True)
    return sorted((folder / "wheels").glob("*.whl"))


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder with the release before."""
    folder = tmp_path_factory.mktemp("previous")
    if named := os.environ.get("MEMKV_PREVIOUS_WHEELS"):
        wheels = [next(Path(named).glob(f"{Path(package).name.replace('-', '_')}-*.whl")) for package in PACKAGES]
    elif tag := newest_tag():
        wheels = wheels_of(tag, folder)
    else:
        pytest.skip("there is no release before this one: no tag v*, and MEMKV_PREVIOUS_WHEELS is not set")
    target = str(folder / "installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    subprocess.run([*command, *map(str, wheels)], check=True)
    return target


class Releases:
    """Processes of either release on one cluster's key and license; ``path`` "" is this release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = Authority.create(folder / "authority", name="upgrade")
        (folder / "auth.key").write_text(KEY + "\n")
        (folder / "minio.license").write_text(authority.issue("upgrade"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMKV_")}
        self._environment = {
            **kept, "MEMKV_AUTH_KEY": KEY, "MEMKV_LICENSE": str(folder / "minio.license"),
            "MEMKV_LICENSE_KEYS": str(authority.public_keys), "MEMKV_NAMESPACE": "upgrade",
        }  # fmt: skip
        self.nodes: list[subprocess.Popen[bytes]] = []

    def of(self, path: str) -> dict[str, str]:
        before = self._environment.get("PYTHONPATH", "")
        return {**self._environment, "PYTHONPATH": os.pathsep.join(part for part in (path, before) if part)}

    def start(self, path: str, drive: str) -> str:
        """A node; its address."""
        log = self.folder / f"node-{len(self.nodes)}.log"
        flags = [
            "--auth-key-file",
            "auth.key",
            "--license",
            "minio.license",
            "--license-keys",
            "authority/license-keys",
        ]
        command = [sys.executable, "-m", "memkv_server", "start", "--address", "127.0.0.1:0", *flags]
        with log.open("wb") as file:
            self.nodes.append(
                subprocess.Popen(
                    [*command, "--path", drive, "--capacity", "64MiB"], stderr=file, cwd=self.folder, env=self.of(path)
                )
            )
        deadline_s = time.monotonic() + 60
        while (found := READY.search(log.read_text())) is None:
            assert self.nodes[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
        return found[1]

    def stop(self) -> None:
        self.nodes[-1].terminate()
        assert self.nodes[-1].wait(30) == 0

    def client(self, path: str, address: str, action: str, prefix: str) -> str:
        """A client that puts and gets, or only gets; what it says."""
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, action, prefix], cwd=self.folder,
            env={**self.of(path), "MEMKV_SERVERS": address}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    made = Releases(tmp_path)
    yield made
    for node in made.nodes:
        if node.poll() is None:
            node.kill()
            node.wait(30)


def test_nodes_first_then_clients(previous: str, releases: Releases) -> None:
    address = releases.start(previous, "drive")
    older = releases.client(previous, address, "put", "before")
    releases.stop()
    address = releases.start("", "drive")  # the node is upgraded: its drive is read, its clients go on
    assert releases.client(previous, address, "get", "before") == older
    releases.client(previous, address, "put", "between")
    for prefix in ("before", "between"):  # the client is upgraded
        assert releases.client("", address, "get", prefix).startswith(f"{__version__} ")
    releases.client("", address, "put", "after")


def test_a_client_that_was_upgraded_before_its_node(previous: str, releases: Releases) -> None:
    address = releases.start(previous, "drive")
    stored = releases.client("", address, "put", "k")
    found = releases.client(previous, address, "get", "k")
    assert stored.startswith(f"{__version__} ")
    assert found.split(" ", 1)[1] == stored.split(" ", 1)[1] == "{}\n", "no misses"
