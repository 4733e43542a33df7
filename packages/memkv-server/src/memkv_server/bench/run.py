# SPDX-License-Identifier: Apache-2.0
"""Runs a plan: client processes, slices in turns with the comparisons, results put together."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Protocol

from memkv_core.errors import ConnectError, MemKVError, StorageError
from memkv_server.bench.machine import describe_machine, describe_versions
from memkv_server.bench.plan import Moves, Outcome, Plan, Sample, median_ratio, quantile
from memkv_server.bench.raw import RAW_OPERATIONS, RawLoopback
from memkv_server.bench.redis_exists import RedisExists
from memkv_server.bench.worker import serve

STOP_S: Final = 30.0


class Progress(Protocol):
    """Told how a run goes, from one thread."""

    def begin(self, operation: str) -> None:
        """What ``operation`` reads is being stored; or everything is being taken away ("clean up")."""

    def so_far(self, operation: str, index: int, calls: int, moved_bytes: int, seconds: float) -> None:
        """A slice under way: what all clients did of it."""

    def end(self, operation: str, index: int, outcome: Outcome) -> None:
        """A slice is done."""


@dataclass
class Report:
    """All outcomes of a run, and the comparisons of the same run."""

    plan: Plan
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    raw_rates: dict[str, list[float]] = field(default_factory=dict)  # operation -> bytes a second, slice by slice
    redis_latencies_s: list[list[float]] = field(default_factory=list)  # slice by slice
    moves: Moves = field(default_factory=Moves)

    @property
    def failures(self) -> int:
        return sum(sample.failures for out in self.outcomes.values() for group in out.samples for sample in group)

    def as_json(self) -> dict[str, Any]:
        report: dict[str, Any] = {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "plan": self.plan.__dict__,
            "operations": {name: outcome.as_json() for name, outcome in self.outcomes.items()},
            "failures": self.failures,
        }
        if self.moves:
            report["moves"] = asdict(self.moves)
        if self.raw_rates:
            report["raw"] = {
                name: {
                    "bytes_per_second": statistics.fmean(rates),
                    "slice_bytes_per_second": rates,
                    "ratio": median_ratio(self.outcomes[name].slice_rates(), rates),
                }
                for name, rates in self.raw_rates.items()
            }
        if self.redis_latencies_s:
            p50 = self.redis_p50_s()
            report["redis"] = {"exists_p50_us": p50 * 1e6, "ratio": self.outcomes["exists"].quantile_s(0.5) / p50}
        return report

    def redis_p50_s(self) -> float:
        return quantile([latency for group in self.redis_latencies_s for latency in group], 0.5)


def run(plan: Plan, *, raw: bool, redis_address: str | None, progress: Progress) -> Report:
    """Runs ``plan``. Raises MemKVError, one line, where nothing can be measured."""
    plan.check()
    report = Report(plan)
    with ExitStack() as stack:
        yardstick = stack.enter_context(RawLoopback()) if raw else None
        redis = None
        if redis_address is not None and "exists" in plan.operations:
            redis = stack.enter_context(closing(RedisExists(redis_address)))
        pipes = stack.enter_context(_workers(plan))
        for operation in plan.operations:  # one after the other: puts may evict what gets will read
            progress.begin(f"prepare {operation}")
            _all(pipes, ("prepare", operation), _raise_text)
            for index in range(plan.slices):
                _slice(report, pipes, operation, yardstick, redis, _Sum(progress, operation, index))
                progress.end(operation, index, report.outcomes[operation])
        _all(pipes, ("moves",), report.moves.add)
        progress.begin("clean up")
    return report


def _slice(
    report: Report,
    pipes: list[Connection],
    operation: str,
    yardstick: RawLoopback | None,
    redis: RedisExists | None,
    so_far: _Sum,
) -> None:
    outcome = report.outcomes.setdefault(operation, Outcome(operation))
    samples: list[Sample] = []
    _all(pipes, ("run", operation), samples.append, so_far)
    outcome.samples.append(samples)
    if yardstick is not None and operation in RAW_OPERATIONS:
        report.raw_rates.setdefault(operation, []).append(yardstick.run(operation, report.plan))
    if redis is not None and operation == "exists":
        report.redis_latencies_s.append(redis.run(report.plan))


class _Sum:
    """Adds up what the clients say of a slice under way."""

    def __init__(self, progress: Progress, operation: str, index: int) -> None:
        self._progress = progress
        self._about = operation, index
        self._said: dict[int, tuple[int, int, float]] = {}

    def __call__(self, client: int, calls: int, moved_bytes: int, seconds: float) -> None:
        self._said[client] = calls, moved_bytes, seconds
        columns = list(zip(*self._said.values()))
        self._progress.so_far(*self._about, sum(columns[0]), sum(columns[1]), max(columns[2]))


def _all(
    pipes: list[Connection],
    command: tuple[str, ...],
    take: Callable[[Any], None],
    so_far: Callable[[int, int, int, float], None] | None = None,
) -> None:
    """Gives every worker the command, then takes each one's answer."""
    for pipe in pipes:
        with suppress(BrokenPipeError):  # it has ended: what it said last says why
            pipe.send(command)
    waiting = dict(zip(pipes, range(len(pipes))))
    while waiting:
        ready = wait(list(waiting))
        for pipe in [pipe for pipe in waiting if pipe in ready]:
            try:
                answer = pipe.recv()
            except EOFError:
                raise ConnectError("a measuring client ended early", remedy="see its message above") from None
            if isinstance(answer, str):
                raise _error(answer)
            if isinstance(answer, tuple):
                if so_far is not None:
                    so_far(waiting[pipe], *answer[1:])
                continue
            take(answer)
            del waiting[pipe]


def _raise_text(answer: str | None) -> None:
    if answer is not None:
        raise _error(answer)


def _error(text: str) -> MemKVError:
    cause, _, remedy = text.partition("; ")
    return StorageError(cause, remedy=remedy or "check the cluster with `memkv admin status`")


@contextmanager
def _workers(plan: Plan) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for index in range(plan.clients):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, plan, index), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        yield pipes
        for pipe in pipes:
            with suppress(BrokenPipeError):
                pipe.send(("stop",))
        for process in processes:
            process.join(STOP_S)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()
