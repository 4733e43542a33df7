# SPDX-License-Identifier: Apache-2.0
"""A drive's syncs: by whoever asks, by the thread, and none that is believed after one that failed."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from unittest import mock

import pytest

from memkv_core.errors import StorageError
from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.syncer import Syncer


def test_a_change_is_written_back_and_synced_by_the_thread(tmp_path: Path) -> None:
    written_back = threading.Event()
    health = DriveHealth()
    with (tmp_path / "file").open("wb") as file:
        syncer = Syncer(file.fileno(), "file", health, written_back.set)
        syncer.written()
        assert written_back.wait(timeout=30)
        syncer.close()
    assert health.state is DriveState.ONLINE


def test_the_end_syncs_what_is_left(tmp_path: Path) -> None:
    calls: list[str] = []
    with (tmp_path / "file").open("wb") as file:
        syncer = Syncer(file.fileno(), "file", DriveHealth(), lambda: calls.append("written back"))
        syncer.close()
    assert calls == ["written back"]


def test_after_a_sync_that_failed_none_is_believed(tmp_path: Path) -> None:
    health = DriveHealth()
    with (tmp_path / "file").open("wb") as file:
        syncer = Syncer(file.fileno(), "the/file", health, lambda: None)
        with mock.patch.object(os, "fdatasync", side_effect=OSError(5, "Input/output error")) as fdatasync:
            for _ in range(2):
                with pytest.raises(StorageError, match="the/file: Input/output error; check the drive"):
                    syncer.sync()
            assert fdatasync.call_count == 1
        with pytest.raises(StorageError, match="the/file"):
            syncer.sync()
        syncer.close()
    assert health.state is DriveState.READ_ONLY
    assert health.failure == "the/file: Input/output error"


def test_what_cannot_be_written_back_is_not_synced(tmp_path: Path) -> None:
    def fail() -> None:
        raise StorageError("no room", remedy="none")

    with (tmp_path / "file").open("wb") as file:
        syncer = Syncer(file.fileno(), "file", DriveHealth(), fail)
        with mock.patch.object(os, "fdatasync") as fdatasync, pytest.raises(StorageError, match="no room"):
            syncer.sync()
        assert fdatasync.call_count == 0
        syncer.close()
