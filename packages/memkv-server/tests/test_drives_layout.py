# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.errors import ConfigError
from memkv_server.capacity import Share
from memkv_server.config import ServerConfig
from memkv_server.drives.layout import arrange, without_drive


def config(count: int, lanes: int | None = None, **storage: Any) -> ServerConfig:
    drives = [{"path": f"/srv/{number}", "capacity": "1GiB"} for number in range(count)]
    return ServerConfig.load(None, {"lanes": lanes, "storage": {"drives": drives, **storage}})


def order(settings: ServerConfig) -> list[str]:
    return [drive.path.name for drive in settings.storage.drives]


@pytest.mark.parametrize(
    ("count", "lanes", "leaving", "expected", "lane_count"),
    [
        (4, None, 3, ["0", "1", "2"], 3),  # of the last lane: all others stay where they are
        (4, None, 1, ["0", "3", "2"], 3),  # the last lane's drive takes its place
        (4, 2, 1, ["0", "3", "2"], 2),
        (4, 2, 0, ["2", "1", "3"], 2),
        (3, 1, 0, ["1", "2"], 1),
        (3, 3, 2, ["0", "1"], 2),
        (2, None, 0, ["1"], 1),
    ],
)
def test_most_drives_keep_their_lane(
    count: int, lanes: int | None, leaving: int, expected: list[str], lane_count: int
) -> None:
    new = without_drive(config(count, lanes), Path(f"/srv/{leaving}"))
    assert (order(new), new.lane_count) == (expected, lane_count)
    assert (new.lanes is None) == (lanes is None)


@given(lanes=st.lists(st.integers(0, 7), min_size=1, max_size=20), lane_count=st.integers(1, 8))
def test_an_arrangement_is_an_order_of_all(lanes: list[int], lane_count: int) -> None:
    lane_count = min(lane_count, len(lanes))
    ordered = arrange(lanes, lane_count)
    assert sorted(ordered) == list(range(len(lanes)))
    kept = sum(lanes[position] == place % lane_count for place, position in enumerate(ordered))
    room = [len(range(lane, len(lanes), lane_count)) for lane in range(lane_count)]
    assert kept == sum(min(room[lane], lanes.count(lane)) for lane in range(lane_count))


def test_the_others_keep_their_capacity() -> None:
    drives = [{"path": "/a"}, {"path": "/b", "capacity": "50%"}, {"path": "/c"}]
    settings = ServerConfig.load(None, {"storage": {"mode": "direct", "drives": drives, "capacity": "25%"}})
    new = without_drive(settings, Path("/a"))
    assert {str(drive.path): drive.capacity for drive in new.storage.drives} == {"/b": Share(50), "/c": Share(25)}
    settings = ServerConfig.load(None, {"storage": {"drives": [{"path": "/a"}, {"path": "/c"}], "capacity": "4GiB"}})
    new = without_drive(settings, Path("/a"))
    assert [drive.capacity for drive in new.storage.drives] == [2 << 30]
    assert new.storage.capacity is None


def test_what_cannot_leave() -> None:
    with pytest.raises(ConfigError, match=r"/elsewhere is no drive of these settings; name one of storage\.drives"):
        without_drive(config(2), Path("/elsewhere"))
    with pytest.raises(ConfigError, match="/srv/0 is the only drive of the node; add another one first"):
        without_drive(config(1), Path("/srv/0"))
