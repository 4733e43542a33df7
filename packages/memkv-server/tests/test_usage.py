# SPDX-License-Identifier: Apache-2.0
"""What the drives of a lane say is added up."""

from __future__ import annotations

from typing import Any

from memkv_server.engine.usage import add_usage


def part(scale: int, path: str, names: list[str]) -> dict[str, Any]:
    return {
        "records": scale,
        "recovery_seconds": scale / 2,
        "segments": {"total": 10 * scale, "bytes": 4096 * scale},
        "drives": [{"path": path}],
        "namespaces": [{"name": name, "identity_digest": "00", "records": scale, "bytes": 7} for name in names],
    }


def test_the_sum_of_two_drives() -> None:
    total: dict[str, Any] = {}
    parts = [part(1, "/a", ["n", "m"]), part(2, "/b", ["n"])]
    for each in parts:
        add_usage(total, each)
    assert total == {
        "records": 3,
        "recovery_seconds": 1.0,
        "segments": {"total": 30, "bytes": 8192},
        "drives": [{"path": "/a"}, {"path": "/b"}],
        "namespaces": [
            {"name": "n", "identity_digest": "00", "records": 3, "bytes": 14},
            {"name": "m", "identity_digest": "00", "records": 1, "bytes": 7},
        ],
    }
    assert parts == [part(1, "/a", ["n", "m"]), part(2, "/b", ["n"])], "the parts are left as they were"


def test_a_drive_that_is_away_adds_nothing() -> None:
    total: dict[str, Any] = {}
    add_usage(total, part(1, "/a", ["n"]))
    add_usage(total, {"drives": [{"path": "/b", "state": "offline"}]})
    assert total["records"] == 1
    assert [drive["path"] for drive in total["drives"]] == ["/a", "/b"]
