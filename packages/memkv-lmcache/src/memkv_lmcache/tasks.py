# SPDX-License-Identifier: Apache-2.0
"""Threads that settle every task before its deadline, and the places where its result is picked up.

A task is work with a deadline that includes its wait for a thread. What is too late when a thread gets to it, or is
still waiting when the threads are stopped, settles as a miss at once. So a task never stays open, whatever a server
does: LMCache's controllers wait for a result without any deadline of their own.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from memkv_core.guard import Guard
from memkv_core.log import RateLimitedLog
from memkv_lmcache.deadline import Deadline
from memkv_lmcache.limits import RESULTS_KEPT_COUNT_MAX, TASKS_QUEUED_COUNT_MAX

R = TypeVar("R")

_LOG: Final = RateLimitedLog(logging.getLogger(__name__))


class Notifier(Protocol):
    """What LMCache's ``create_event_notifier`` makes."""

    def fileno(self) -> int: ...
    def notify(self) -> None: ...
    def close(self) -> None: ...


class Results(Generic[R]):
    """Results by task, each taken once. Published first, notified then: a lost wake-up is a stuck request."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._lock = threading.Lock()
        self._results: OrderedDict[int, R] = OrderedDict()
        self._closed = False

    def fileno(self) -> int:
        return self._notifier.fileno()

    def publish(self, task_id: int, result: R) -> None:
        with self._lock:
            if self._closed:
                return
            self._results[task_id] = result
            if len(self._results) > RESULTS_KEPT_COUNT_MAX:  # of tasks that were given up; nobody asks for these
                self._results.popitem(last=False)
            self._notifier.notify()

    def take(self, task_id: int) -> R | None:
        with self._lock:
            return self._results.pop(task_id, None)

    def take_all(self) -> dict[int, R]:
        with self._lock:
            taken = dict(self._results)
            self._results.clear()
        return taken

    def close(self) -> None:
        """Closes the file descriptor. Results can still be taken."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._notifier.close()


def spans(item_count: int, byte_count: int, *, part_bytes_min: int, parts_max: int) -> list[slice]:
    """Cuts a batch of items of one size, ``byte_count`` together, into equal parts for as many threads. Pure."""
    count = max(1, min(item_count, parts_max, byte_count // part_bytes_min))
    ends = [item_count * part // count for part in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


@dataclass(slots=True)
class _Task:
    work: Callable[[Deadline], Any]
    settle: Callable[[Any], None]
    miss: Callable[[], Any]
    deadline: Deadline


class Workers:
    """A few threads and their queue. ``submit`` returns at once and never raises; every task is settled once."""

    def __init__(self, name: str, thread_count: int, guard: Guard) -> None:
        self._name = name
        self._guarded = guard.guarded(miss=None)(_run)
        self._queue: queue.Queue[_Task | None] = queue.Queue(TASKS_QUEUED_COUNT_MAX)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._loop, name=f"memkv-{name}-{index}", daemon=True)
            for index in range(thread_count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        work: Callable[[Deadline], R],
        settle: Callable[[R], None],
        miss: Callable[[], R],
        deadline: Deadline,
    ) -> None:
        """``settle(work(deadline))``, on a thread of these; or ``settle(miss())`` where that fails or is too late."""
        task = _Task(work, settle, miss, deadline)
        with self._lock:  # so that nothing enters the queue after stop() has emptied it
            if not self._stopping.is_set():
                try:
                    self._queue.put_nowait(task)
                    return
                except queue.Full:
                    _LOG.warning(self._name, "more than %d %s tasks wait: misses", TASKS_QUEUED_COUNT_MAX, self._name)
        settle(miss())

    def submit_parts(
        self,
        works: Sequence[Callable[[Deadline], R]],
        settle: Callable[[list[R]], None],
        miss: Callable[[], R],
        deadline: Deadline,
    ) -> None:
        """One task in parts, on as many threads: ``settle`` with all results, in order, once the last part ended."""
        results: dict[int, R] = {}
        lock = threading.Lock()

        def settle_part(index: int, result: R) -> None:
            with lock:
                results[index] = result
                complete = len(results) == len(works)
            if complete:
                settle([results[each] for each in range(len(works))])

        for index, work in enumerate(works):
            self.submit(work, partial(settle_part, index), miss, deadline)

    def stop(self) -> None:
        """Settles what waits as misses; what runs comes to its end by itself. Call ``join`` then. Idempotent."""
        with self._lock:
            self._stopping.set()
            waiting = []
            while True:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            for _ in self._threads:
                self._queue.put_nowait(None)
        for task in waiting:
            if task is not None:
                task.settle(task.miss())

    def join(self, timeout_s: float) -> bool:
        """Waits for the threads to end after ``stop``; whether they did."""
        deadline = Deadline(1000 * timeout_s)
        for thread in self._threads:
            thread.join(deadline.left_ms() / 1000)
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> bool:
        """Whether tasks are worked on."""
        return not self._stopping.is_set() and all(thread.is_alive() for thread in self._threads)

    @property
    def thread_count(self) -> int:
        return len(self._threads)

    @property
    def waiting_count(self) -> int:
        return self._queue.qsize()

    def _loop(self) -> None:
        while True:
            task = self._queue.get()
            if task is None:
                return
            result = self._guarded(task, self._stopping)
            task.settle(task.miss() if result is None else result)


def _run(task: _Task, stopping: threading.Event) -> Any:
    if stopping.is_set() or not task.deadline.left_ms():
        return None
    return task.work(task.deadline)


def on(workers: Workers, work: Callable[[Deadline], R], miss: Callable[[], R], deadline: Deadline) -> Future[R]:
    """``work`` on a thread of ``workers``; the future always gets a result, and cannot be cancelled."""
    future: Future[R] = Future()
    future.set_running_or_notify_cancel()
    workers.submit(work, future.set_result, miss, deadline)
    return future
