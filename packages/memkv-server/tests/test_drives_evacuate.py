# SPDX-License-Identifier: Apache-2.0
"""A drive leaves: every block is found by clients of the node without it, verified, and nothing old comes back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from memkv_core import router
from memkv_core.errors import StorageError
from memkv_core.testing.engine_tests import block, get, put
from memkv_server.config import ServerConfig
from memkv_server.drives.evacuate import Evacuation
from memkv_server.drives.layout import without_drive
from memkv_server.drives.relocate import Lanes
from memkv_server.engine import DriveSet, Status
from memkv_server.engine.drive import SEGMENTS_FILE
from memkv_server.lane import open_lane_engine
from memkv_server.supervisor import start_message

SIZE = 3000
MIB = 1 << 20


def config(folder: Path, count: int, lanes: int | None = None, capacity: str = "4MiB", **storage: Any) -> ServerConfig:
    drives = [{"path": str(folder / str(number)), "capacity": capacity} for number in range(count)]
    settings = {"segment_size": "64KiB", "drives": drives, **storage}
    return ServerConfig.load(None, {"lanes": lanes, "storage": settings})


class Node:
    """The lanes of a node as clients meet them: a key is asked of its lane."""

    def __init__(self, settings: ServerConfig) -> None:
        self.sets: list[DriveSet] = []
        for lane in range(settings.lane_count):
            engine = open_lane_engine(start_message(settings, lane))
            assert isinstance(engine, DriveSet)
            self.sets.append(engine)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sets:
            each.close()

    def put(self, name: str, values: dict[bytes, bytes], identity: bytes = b"{}") -> None:
        for lane, keys in self._by_lane(name, list(values)).items():
            namespace = self.sets[lane].open_namespace(name, identity)
            assert namespace is not None
            statuses = put(self.sets[lane], namespace, {key: values[key] for key in keys})
            assert set(statuses) <= {Status.HIT, Status.PRESENT}
            self.sets[lane].tick()

    def get(self, name: str, keys: list[bytes], identity: bytes = b"{}") -> dict[bytes, bytes | None]:
        found: dict[bytes, bytes | None] = {}
        for lane, own in self._by_lane(name, keys).items():
            namespace = self.sets[lane].open_namespace(name, identity)
            assert namespace is not None
            found.update(zip(own, get(self.sets[lane], namespace, own), strict=True))
        return found

    def delete(self, name: str, keys: list[bytes]) -> None:
        for lane, own in self._by_lane(name, keys).items():
            namespace = self.sets[lane].open_namespace(name, b"{}")
            assert namespace is not None
            self.sets[lane].delete(namespace, own)

    def _by_lane(self, name: str, keys: list[bytes]) -> dict[int, list[bytes]]:
        seed = router.namespace_seed(name)
        lanes = router.lanes_of([router.key_hash(key, seed) for key in keys], len(self.sets))
        return {lane: [key for key, at in zip(keys, lanes, strict=True) if at == lane] for lane in set(lanes)}


def values_of(first: int, count: int) -> dict[bytes, bytes]:
    return {b"key-%d" % number: block(number, SIZE) for number in range(first, first + count)}


def evacuate(settings: ServerConfig, path: Path) -> tuple[ServerConfig, Any]:
    new = without_drive(settings, path)
    with Evacuation(settings, new, str(path)) as work:
        work.run()
    return new, work.moved


@pytest.mark.parametrize(
    ("count", "lanes", "leaving"),
    [(2, None, 0), (2, None, 1), (4, None, 3), (4, None, 1), (3, 1, 1), (4, 2, 0), (4, 2, 3), (3, 2, 2)],
)
def test_every_block_is_found_without_the_drive(tmp_path: Path, count: int, lanes: int | None, leaving: int) -> None:
    old = config(tmp_path, count, lanes)
    first, second = values_of(0, 300), values_of(1000, 200)
    with Node(old) as node:
        node.put("a", values_of(5000, 300) | first)
        node.put("b", second, b'{"model":"m"}')
        node.delete("a", list(values_of(5000, 300)))
    new, moved = evacuate(old, tmp_path / str(leaving))
    assert moved.records > 50
    assert (moved.damaged, moved.refused, moved.too_long, moved.already) == (0, 0, 0, 0)
    with Node(new) as node:
        assert node.get("a", list(first)) == first
        assert node.get("b", list(second), b'{"model":"m"}') == second
        assert set(node.get("a", list(values_of(5000, 300))).values()) == {None}
        assert sum(each.usage()["records"] for each in node.sets) == 500, "each is on one drive only"
        lane = node.sets[0]
        assert lane.open_namespace("b", b"another") is None, "identities have moved as well"
    # Put back as it was, the drive brings nothing.
    with Node(config(tmp_path, 1)) if leaving == 0 else Node(_only(old, leaving)) as alone:
        assert alone.sets[0].usage()["records"] == 0


def _only(settings: ServerConfig, number: int) -> ServerConfig:
    storage = settings.storage.model_copy(update={"drives": (settings.storage.drives[number],)})
    return settings.model_copy(update={"storage": storage, "lanes": None})


def test_few_records_move_where_the_last_drive_leaves(tmp_path: Path) -> None:
    old = config(tmp_path, 4)
    with Node(old) as node:
        node.put("a", values_of(0, 800))
        held = node.sets[3].usage()["records"]
    _, moved = evacuate(old, tmp_path / "3")
    assert moved.records == held < 300


class StoppedError(Exception):
    """As a Ctrl-C."""


@pytest.mark.parametrize("leaving", [1, 2])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_interrupted_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, leaving: int) -> None:
    """Meanwhile the node runs with the old settings: values are replaced and deleted."""
    old = config(tmp_path, 3)
    values = values_of(0, 600)
    with Node(old) as node:
        node.put("a", values)
    real, calls = Lanes.take, 0

    def stopping(self: Lanes, *arguments: Any) -> list[bytes]:
        nonlocal calls
        calls += 1
        if calls > after:
            raise StoppedError
        return real(self, *arguments)

    monkeypatch.setattr(Lanes, "take", stopping)
    new = without_drive(old, tmp_path / str(leaving))
    with pytest.raises(StoppedError), Evacuation(old, new, str(tmp_path / str(leaving))) as work:
        work.run()
    monkeypatch.undo()
    with Node(old) as node:
        assert node.get("a", list(values)) == values, "nothing has been taken away"
        replaced = {key: block(90_000 + number, 500) for number, key in enumerate(list(values)[::3])}
        deleted = list(values)[1::3]
        node.put("a", replaced)
        node.delete("a", deleted)
    new, moved = evacuate(old, tmp_path / str(leaving))
    expected = {key: None if key in deleted else replaced.get(key, value) for key, value in values.items()}
    with Node(new) as node:
        assert node.get("a", list(values)) == expected
    if after > 1:
        assert moved.already + moved.stale > 0


def test_a_damaged_record_is_left_behind_and_counted(tmp_path: Path) -> None:
    old = config(tmp_path, 2)
    values = values_of(0, 200)
    with Node(old) as node:
        node.put("a", values)
    file = tmp_path / "0" / SEGMENTS_FILE
    content = bytearray(file.read_bytes())
    victim = next(key for key, value in values.items() if content.find(value) > 0)
    content[content.find(values[victim]) + 10] ^= 1
    file.write_bytes(content)
    new, moved = evacuate(old, tmp_path / "0")
    assert moved.damaged == 1
    with Node(new) as node:
        assert node.get("a", list(values)) == {**values, victim: None}


def test_what_was_dropped_or_has_another_identity_does_not_move(tmp_path: Path) -> None:
    old = config(tmp_path, 2)
    with Node(old) as node:
        node.put("kept", values_of(0, 100))
        node.put("dropped", values_of(0, 100))
        for each in node.sets:
            each.drop_namespace("dropped")
        strangers = node.sets[0].open_namespace("theirs", b"one identity")
        assert strangers is not None
        theirs = node._by_lane("theirs", list(values_of(0, 50)))[0]
        put(node.sets[0], strangers, {key: values_of(0, 50)[key] for key in theirs})
        assert node.sets[1].open_namespace("theirs", b"another identity") is not None
    new, moved = evacuate(old, tmp_path / "0")
    assert moved.refused == len(theirs) > 10
    with Node(new) as node:
        assert node.get("kept", list(values_of(0, 100))) == values_of(0, 100)
        assert set(node.get("dropped", list(values_of(0, 100))).values()) == {None}
        assert node.sets[0].open_namespace("theirs", b"one identity") is None


def test_a_drive_that_is_away_or_in_use_stops_it_before_anything_is_done(tmp_path: Path) -> None:
    old = config(tmp_path, 3)
    with Node(old) as node:
        node.put("a", values_of(0, 100))
        new = without_drive(old, tmp_path / "0")
        with pytest.raises(
            StorageError, match=rf"/0 is open in a running node \(process {os.getpid()}.*; stop that node first"
        ):
            Evacuation(old, new, str(tmp_path / "0")).__enter__()
    shutil.move(tmp_path / "2", tmp_path / "away")
    (tmp_path / "2").write_text("not a folder")
    with pytest.raises(StorageError, match="/2"):
        Evacuation(old, new, str(tmp_path / "0")).__enter__()
    (tmp_path / "2").unlink()
    shutil.move(tmp_path / "away", tmp_path / "2")
    with Node(old) as node:
        assert node.get("a", list(values_of(0, 100))) == values_of(0, 100)


# -- the command ------------------------------------------------------------------------------------------------------
Cli = Callable[..., Any]


def settings_file(folder: Path, settings: ServerConfig) -> Path:
    drives = [{"path": str(drive.path), "capacity": drive.capacity} for drive in settings.storage.drives]
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"storage": {"segment_size": "64KiB", "drives": drives}}))
    return file


def test_the_command_prints_the_settings_without_the_drive(cli: Cli, refused: Any, tmp_path: Path) -> None:
    old = config(tmp_path, 3)
    values = values_of(0, 300)
    with Node(old) as node:
        node.put("a", values)
        file = settings_file(tmp_path, old)
        assert "/0 is open in a running node" in refused("drive", "evacuate", "1", "--config", str(file))
    dry = cli("drive", "evacuate", "1", "-c", str(file), "--dry-run", "--json")
    assert dry.returncode == 0
    outlook = json.loads(dry.stdout)
    assert (outlook["path"], outlook["moved"]["records"]) == (str(tmp_path / "1"), 0)
    assert 50 < outlook["records"] < 200
    done = cli("drive", "evacuate", "1", "-c", str(file))
    assert done.returncode == 0
    assert f"{tmp_path}/1: empty; " in done.stderr
    new = ServerConfig.load(None, yaml.safe_load(done.stdout))
    assert [drive.path.name for drive in new.storage.drives] == ["0", "2"]
    with Node(new) as node:
        assert node.get("a", list(values)) == values
    assert "is no drive of these settings" in refused("drive", "evacuate", "7", "-c", str(file))


def test_without_room_it_asks_before_it_evicts(cli: Cli, tmp_path: Path) -> None:
    old = config(tmp_path, 2, capacity="1MiB")
    with Node(old) as node:
        for first in range(0, 900, 50):
            node.put("a", values_of(first, 50))
        alive = [key for key, value in node.get("a", list(values_of(0, 900))).items() if value is not None]
    file = settings_file(tmp_path, old)
    done = cli("drive", "evacuate", "1", "-c", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert "bytes free" not in done.stdout
    assert "/1 holds " in done.stderr
    assert done.stderr.rstrip().endswith("add a drive, or give --evict to let their oldest blocks go")
    done = cli("drive", "evacuate", "1", "-c", str(file), "--evict")
    assert done.returncode == 0
    with Node(ServerConfig.load(None, yaml.safe_load(done.stdout))) as node:
        left = [key for key, value in node.get("a", alive).items() if value is not None]
        assert 150 < len(left) < len(alive)
