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
from memkv_lmcache.tasks import Results, Workers


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
