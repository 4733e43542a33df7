# SPDX-License-Identifier: Apache-2.0
"""What is queued reaches the file: in order, neighbours together, headers as they were; and nothing after a failure."""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import StorageError
from memkv_server.engine.health import DriveHealth, DriveState
from memkv_server.engine.limits import WRITE_BYTES_MAX
from memkv_server.engine.write_queue import Write, WriteQueue, pages_of

PAGE = 4096
BASE = 8192
SIZE = 32 << 20


class Bench:
    """A queue over a file, and the calls that it makes."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.memory = mmap.mmap(-1, SIZE)
        self.view = memoryview(self.memory)
        self.calls: list[tuple[int, int]] = []
        self.fail_at: int | None = None
        self.most = 1 << 40  # bytes that one call writes
        self.health = DriveHealth()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.posix_fallocate(self.fd, 0, SIZE + BASE)
        self.queue = WriteQueue(self.fd, BASE, self.memory_at, self.health, "the drive")
        real = os.pwritev

        def counting(fd: int, buffers: list[memoryview], offset: int) -> int:
            self.calls.append((offset - BASE, len(buffers[0])))
            if len(self.calls) - 1 == self.fail_at:
                raise OSError(5, "Input/output error")
            return real(fd, [buffers[0][: self.most]], offset)

        monkeypatch.setattr(os, "pwritev", counting)

    def memory_at(self, extent: tuple[int, int]) -> memoryview:
        return self.view[extent[0] : extent[0] + extent[1]]

    def on_drive(self, address: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(BASE + address)
            return file.read(length)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(tmp_path / "file", monkeypatch)
    yield bench
    os.close(bench.fd)


def test_pages_of_an_extent() -> None:
    assert pages_of((0, 64)) == (0, 4096)
    assert pages_of((5000, 1)) == (4096, 4096)
    assert pages_of((8192, 4097)) == (8192, 8192)
    assert pages_of((8192, 0)) == (8192, 0)


def test_neighbours_go_together_and_the_order_stays(bench: Bench) -> None:
    bench.view[:] = random.Random(1).randbytes(SIZE)
    bench.queue.put([Write(0, PAGE), Write(PAGE, 3 * PAGE), Write(20 * PAGE, PAGE), Write(4 * PAGE, PAGE)])
    assert not bench.queue.is_empty
    bench.queue.write_back()
    assert bench.calls == [(0, 4 * PAGE), (20 * PAGE, PAGE), (4 * PAGE, PAGE)]
    assert bench.on_drive(0, 5 * PAGE) == bench.view[: 5 * PAGE]
    assert bench.on_drive(20 * PAGE, PAGE) == bench.view[20 * PAGE : 21 * PAGE]
    assert [tuple(write)[:2] for write in bench.queue.take_done()] == [
        (0, PAGE), (PAGE, 3 * PAGE), (20 * PAGE, PAGE), (4 * PAGE, PAGE)
    ]  # fmt: skip
    assert bench.queue.take_done() == []
    bench.queue.write_back()
    assert len(bench.calls) == 3


def test_long_runs_are_cut_and_short_writes_are_gone_on_with(bench: Bench) -> None:
    bench.view[:] = random.Random(2).randbytes(SIZE)
    bench.queue.put([Write(0, 2 * WRITE_BYTES_MAX + PAGE)])
    bench.most = WRITE_BYTES_MAX - 4 * PAGE - 512  # not a whole page: that one is written again
    bench.queue.write_back()
    assert len(bench.calls) == 3
    assert bench.calls[1][0] == WRITE_BYTES_MAX - 5 * PAGE
    assert bench.on_drive(0, 2 * WRITE_BYTES_MAX + PAGE) == bench.view[: 2 * WRITE_BYTES_MAX + PAGE]


def test_a_copy_is_written_as_it_was(bench: Bench) -> None:
    copy = memoryview(mmap.mmap(-1, PAGE))
    copy[:4] = b"then"
    bench.view[:4] = b"now!"
    bench.view[PAGE : PAGE + 4] = b"data"
    bench.queue.put([Write(0, PAGE, copy), Write(PAGE, PAGE)])
    bench.queue.write_back()
    assert bench.calls == [(0, PAGE), (PAGE, PAGE)]
    assert bench.on_drive(0, 4) + bench.on_drive(PAGE, 4) == b"thendata"


def test_after_a_failure_nothing_more_is_written(bench: Bench) -> None:
    bench.fail_at = 1
    bench.queue.put([Write(0, PAGE), Write(10 * PAGE, PAGE), Write(20 * PAGE, PAGE)])
    for _ in range(2):
        with pytest.raises(StorageError, match=f"^the drive: offset {BASE + 10 * PAGE}: Input/output error; check the"):
            bench.queue.write_back()
    bench.queue.put([Write(30 * PAGE, PAGE)])
    with pytest.raises(StorageError, match="Input/output error"):
        bench.queue.write_back()
    assert len(bench.calls) == 2
    assert [write.address for write in bench.queue.take_done()] == [0], "the others never count as written"
    assert bench.health.state is DriveState.READ_ONLY


def test_a_drive_that_takes_nothing_has_failed(bench: Bench) -> None:
    bench.most = 0
    bench.queue.put([Write(0, PAGE)])
    with pytest.raises(StorageError, match="nothing was written"):
        bench.queue.write_back()


def test_one_that_comes_while_another_writes_waits_for_what_it_put(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    counting: Any = os.pwritev

    def slow(fd: int, buffers: list[memoryview], offset: int) -> int:
        entered.set()
        assert go_on.wait(30)
        return int(counting(fd, buffers, offset))

    monkeypatch.setattr(os, "pwritev", slow)
    bench.queue.put([Write(0, PAGE)])
    first = threading.Thread(target=bench.queue.write_back)
    first.start()
    assert entered.wait(30)
    bench.queue.put([Write(5 * PAGE, PAGE)])
    second = threading.Thread(target=bench.queue.write_back)
    second.start()
    go_on.set()
    second.join(30)
    first.join(30)
    assert bench.calls == [(0, PAGE), (5 * PAGE, PAGE)]
    assert len(bench.queue.take_done()) == 2
