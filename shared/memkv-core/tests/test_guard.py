# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import logging
import threading
import time
from typing import Any

import pytest

from memkv_core import errors
from memkv_core.guard import CAUSES, Guard, cause_of, guarded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def raiser(error: BaseException) -> Any:
    raise error


def echo(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.TransportTimeoutError("x"), "timeout"),
        (TimeoutError(), "timeout"),
        (errors.ConnectError("x"), "unreachable"),
        (errors.DisconnectedError("x"), "unreachable"),
        (errors.TransportError("x"), "unreachable"),
        (ConnectionResetError(), "unreachable"),
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable"),
        (errors.RemoteProtocolError("x"), "unreachable"),
        (errors.LocalProtocolError("x"), "unreachable"),
        (errors.AuthError("x"), "refused"),
        (errors.RefusedError(3, "x"), "refused"),
        (errors.LicenseError("x"), "refused"),
        (errors.InvalidArgumentError("x"), "error"),
        (errors.ClientClosedError("x"), "error"),
        (errors.ConfigError("x"), "error"),
        (ValueError("x"), "error"),
        (MemoryError(), "error"),
        (RecursionError(), "error"),
    ],
)
def test_any_exception_is_the_miss_and_counted_by_cause(error: Exception, cause: str) -> None:
    guard = Guard("memkv_test.guard")
    assert cause_of(error) == cause
    assert guard.guarded(miss=0)(raiser)(error) == 0
    assert guard.counts() == dict.fromkeys(CAUSES, 0) | {cause: 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit()])
def test_the_end_of_the_host_passes(error: BaseException) -> None:
    guard = Guard("memkv_test.guard")
    with pytest.raises(type(error)):
        guard.guarded(miss=False)(raiser)(error)
    assert sum(guard.counts().values()) == 0


def test_a_miss_made_of_the_arguments() -> None:
    guard = Guard("memkv_test.guard")

    class Backend:
        @guard.guarded(miss=lambda self, keys, *rest, **more: [False] * len(keys))
        def batch_get(self, keys: list[str], fail: bool = True) -> list[bool] | None:
            """Doc."""
            if fail:
                raise OSError("gone")
            return [True] * len(keys)

    backend = Backend()
    assert backend.batch_get(["a", "b"], fail=False) == [True, True]
    first, second = backend.batch_get(["a", "b"]), backend.batch_get(keys=["a", "b"])
    assert first == second == [False, False]
    assert first is not second
    assert backend.batch_get(None) == []  # type: ignore[arg-type]
    assert (Backend.batch_get.__name__, Backend.batch_get.__doc__) == ("batch_get", "Doc.")
    assert guard.counts()["unreachable"] == 3


def test_none_is_never_given_to_the_host(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("memkv_test.guard")
    assert guard.guarded(miss=False)(lambda: None)() is False
    assert guard.guarded(miss=lambda: [0])(lambda: None)() == [0]
    assert guard.counts()["error"] == 2
    assert "returned None" in caplog.records[0].getMessage()
    assert guard.guarded(miss=None)(lambda: None)() is None
    assert guard.counts()["error"] == 2
    same = guard.guarded(miss=7)(echo)
    values: list[Any] = [0, False, [], "", b""]
    for value in values:
        assert same(value) is value


@pytest.mark.parametrize("miss", [[], {}, set(), bytearray()])
def test_a_shared_mutable_miss_is_refused(miss: Any) -> None:
    with pytest.raises(TypeError, match="give a callable"):
        Guard("memkv_test.guard").guarded(miss=miss)


def test_log_lines_are_few_and_whole(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    guard = Guard("memkv_test.guard", interval_s=10, clock=clock)
    call = guard.guarded(miss=False)(raiser)
    for _ in range(5):
        call(errors.ConnectError("no way to a:9900", remedy="start it"))
    call(ValueError("two\nlines"))
    clock.now = 10
    call(errors.ConnectError("no way to a:9900"))
    assert [record.getMessage() for record in caplog.records] == [
        "raiser gave a miss (unreachable): ConnectError: no way to a:9900; start it",
        "raiser gave a miss (error): ValueError: two lines",
        "raiser gave a miss (unreachable): ConnectError: no way to a:9900 (4 more like this were not logged)",
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR, logging.WARNING]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False]


def test_an_exception_that_cannot_be_printed(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    logging.getLogger("memkv_test.guard").propagate = True
    guard = Guard("memkv_test.guard")
    assert guard.guarded(miss=1)(raiser)(Broken()) == 1
    assert "(no text)" in caplog.records[0].getMessage()


def test_counts_from_many_threads() -> None:
    guard = Guard("memkv_test.guard")
    call = guarded(miss=False, guard=guard)(raiser)

    def work() -> None:
        for _ in range(200):
            call(TimeoutError())
            guard.count("miss", 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guard.counts() == dict.fromkeys(CAUSES, 0) | {"timeout": 1600, "miss": 3200}
    with pytest.raises(KeyError):
        guard.count("nonsense")


def test_the_shared_guard() -> None:
    assert guarded(miss=0)(echo)(5) == 5
    assert guarded(miss=0)(raiser)(OSError()) == 0


def test_overhead_is_reported(record_property: Any) -> None:
    """Reported, and compared with nothing: the time of a busy machine decides no test."""
    call = Guard("memkv_test.guard").guarded(miss=0)(echo)
    start = time.perf_counter()
    for _ in range(10_000):
        call(1)
    record_property("guard_overhead_ns", round((time.perf_counter() - start) * 1e5))
    assert call(1) == 1
