# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from lmcache_fakes import until

from memkv_core.guard import Guard
from memkv_lmcache import tasks
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.standins import EventNotifier
from memkv_lmcache.tasks import Results, Workers, spans


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers("test", 1, Guard("memkv_lmcache.test"))
    yield made
    made.stop()
    assert made.join(10)


def test_a_result_is_published_before_it_is_notified_and_taken_once() -> None:
    results: Results[str] = Results(EventNotifier())
    results.publish(1, "one")
    assert os.read(results.fileno(), 8)
    assert results.take(1) == "one"
    assert results.take(1) is None
    results.publish(2, "two")
    results.publish(3, "three")
    assert results.take_all() == {2: "two", 3: "three"}
    assert results.take_all() == {}
    results.close()
    results.publish(4, "late")
    results.close()


def test_results_that_nobody_takes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RESULTS_KEPT_COUNT_MAX", 3)
    results: Results[int] = Results(EventNotifier())
    for index in range(10):
        results.publish(index, index)
    assert sorted(results.take_all()) == [7, 8, 9]
    results.close()


def test_what_raises_or_is_too_late_settles_as_a_miss(workers: Workers) -> None:
    settled: list[str] = []
    workers.submit(lambda _: str(1 / 0), settled.append, lambda: "raised", Deadline(10_000))
    workers.submit(lambda _: "late", settled.append, lambda: "missed", Deadline(0))
    workers.submit(lambda _: "done", settled.append, lambda: "missed", Deadline(10_000))
    until(lambda: len(settled) == 3)
    assert settled == ["raised", "missed", "done"]


def test_stopping_settles_everything(workers: Workers) -> None:
    settled: list[str] = []
    running, go = threading.Event(), threading.Event()

    def work(_: Deadline) -> str:
        running.set()
        go.wait(10)
        return "done"

    workers.submit(work, settled.append, lambda: "missed", Deadline(10_000))
    assert running.wait(10)
    for _ in range(5):
        workers.submit(lambda _: "done", settled.append, lambda: "missed", Deadline(10_000))
    assert workers.waiting_count == 5
    workers.stop()
    assert settled == ["missed"] * 5
    assert not workers.alive
    go.set()
    assert workers.join(10)
    assert settled == ["missed"] * 5 + ["done"]
    workers.submit(lambda _: "done", settled.append, lambda: "missed", Deadline(10_000))
    assert settled[-1] == "missed"
    workers.stop()


def test_a_full_queue_settles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASKS_QUEUED_COUNT_MAX", 1)
    settled: list[str] = []
    running, go = threading.Event(), threading.Event()

    def work(_: Deadline) -> str:
        running.set()
        go.wait(10)
        return "done"

    made = Workers("full", 1, Guard("memkv_lmcache.test"))
    made.submit(work, settled.append, lambda: "missed", Deadline(10_000))
    assert running.wait(10)
    made.submit(lambda _: "done", settled.append, lambda: "missed", Deadline(10_000))
    made.submit(lambda _: "done", settled.append, lambda: "full", Deadline(10_000))
    assert settled == ["full"]
    go.set()
    until(lambda: len(settled) == 3)
    made.stop()
    assert made.join(10)


def test_parts_settle_once_in_order_and_misses_among_them() -> None:
    workers = Workers("parts", 3, Guard("memkv_lmcache.test"))
    settled: list[list[int]] = []
    last = threading.Event()

    def first(_: Deadline) -> int:
        assert last.wait(10)
        return 1

    def third(_: Deadline) -> int:
        last.set()
        return 3

    def fails(_: Deadline) -> int:
        return 1 // 0

    workers.submit_parts([first, fails, third], settled.append, lambda: -1, Deadline(10_000))
    until(lambda: bool(settled))
    workers.submit_parts([third], settled.append, lambda: -1, Deadline(0))
    until(lambda: len(settled) == 2)
    assert settled == [[1, -1, 3], [-1]]
    workers.stop()
    assert workers.join(10)


@pytest.mark.parametrize(
    ("items", "size", "parts"),
    [(0, 0, 1), (1, 1 << 30, 1), (64, 64, 1), (64, 16 << 20, 4), (64, 1 << 30, 8), (3, 1 << 30, 3), (9, 80 << 20, 8)],
)
def test_spans_cover_a_batch_in_equal_parts(items: int, size: int, parts: int) -> None:
    cut = spans(items, size, part_bytes_min=4 << 20, parts_max=8)
    assert len(cut) == parts
    batch = list(range(items))
    assert [each for span in cut for each in batch[span]] == batch
    lengths = [span.stop - span.start for span in cut]
    assert max(lengths) - min(lengths) <= 1
