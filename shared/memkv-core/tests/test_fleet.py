# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from memkv_core import fleet as fleet_module
from memkv_core.errors import (
    AuthError,
    ClientClosedError,
    ConnectError,
    DisconnectedError,
    LocalProtocolError,
    MemKVError,
    PoolTimeoutError,
    RefusedError,
    RemoteProtocolError,
    TransportTimeoutError,
)
from memkv_core.fleet import Fleet

Eventually = Callable[[Callable[[], object]], None]


class Pings:
    """Stands in for a transport's ping: an error while ``down``, and a tally."""

    def __init__(self) -> None:
        self.down: dict[str, MemKVError | Exception] = {}
        self.counts: Counter[str] = Counter()
        self.threads: set[str] = set()

    def __call__(self, server: str, deadline_s: float) -> MemKVError | None:
        self.counts[server] += 1
        self.threads.add(threading.current_thread().name)
        error = self.down.get(server)
        if error is not None and not isinstance(error, MemKVError):
            raise error
        return error


@pytest.fixture
def pings() -> Pings:
    return Pings()


@pytest.fixture
def fleet(pings: Pings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(fleet_module, "_PROBE_INTERVAL_S", 0.005)
    fleet = Fleet(["a:9900", "b:9900"], pings)
    yield fleet
    fleet.close()


def test_all_are_allowed_at_first(fleet: Fleet, pings: Pings) -> None:
    assert fleet.allows("a:9900")
    assert fleet.allows("b:9900")
    assert fleet.cause("a:9900") is None
    assert fleet.opened_count == 0
    assert not pings.counts


@pytest.mark.parametrize(
    ("error", "timeout_s", "opens_after"),
    [
        (TransportTimeoutError("spent"), 5.0, 1),
        (TransportTimeoutError("impatient"), 0.01, 3),
        (AuthError("proof"), 5.0, 1),
        (RefusedError(8, "draining"), 5.0, 1),
        (ConnectError("refused"), 5.0, 3),
        (DisconnectedError("lost"), 5.0, 3),
        (RemoteProtocolError("HTTP"), 5.0, 3),
        (PoolTimeoutError("busy"), 5.0, None),
        (ClientClosedError("closed"), 5.0, None),
        (LocalProtocolError("a bug here"), 5.0, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_opens_a_breaker(
    fleet: Fleet, pings: Pings, error: MemKVError, timeout_s: float, opens_after: int | None
) -> None:
    pings.down["a:9900"] = error
    for number in range(1, 11):
        fleet.failure("a:9900", error, timeout_s)
        assert fleet.allows("a:9900") == (opens_after is None or number < opens_after)
    assert fleet.allows("b:9900")
    assert fleet.opened_count == (0 if opens_after is None else 1)
    assert fleet.cause("a:9900") is (None if opens_after is None else error)


def test_it_comes_back_by_itself(fleet: Fleet, pings: Pings, eventually: Eventually) -> None:
    pings.down["a:9900"] = ConnectError("still down")
    fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
    eventually(lambda: pings.counts["a:9900"] >= 2)
    assert not fleet.allows("a:9900")
    assert str(fleet.cause("a:9900")) == "still down"
    pings.down.clear()
    eventually(lambda: fleet.allows("a:9900"))
    assert fleet.cause("a:9900") is None
    assert pings.counts["b:9900"] == 0, "a server that is up is not probed"


def test_calls_never_probe(fleet: Fleet, pings: Pings, eventually: Eventually) -> None:
    pings.down["a:9900"] = ConnectError("down")
    fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
    for _ in range(1000):
        assert not fleet.allows("a:9900")
    eventually(lambda: pings.counts["a:9900"] >= 1)
    assert pings.threads == {"memkv-probe"}


def test_the_probing_thread_ends_and_starts_again(fleet: Fleet, pings: Pings, eventually: Eventually) -> None:
    for _ in range(3):
        fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
        assert fleet._prober is not None
        eventually(lambda: fleet.allows("a:9900"))
        eventually(lambda: fleet._prober is None)
    assert fleet.opened_count == 3


def test_one_success_is_enough(fleet: Fleet, pings: Pings) -> None:
    """A call that was under way when the breaker opened, and was answered."""
    pings.down["a:9900"] = ConnectError("down")
    fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
    fleet.success("a:9900")
    assert fleet.allows("a:9900")


def test_a_probe_that_raises_does_not_end_probing(
    fleet: Fleet, pings: Pings, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    pings.down["a:9900"] = ValueError("a bug")
    fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
    eventually(lambda: pings.counts["a:9900"] >= 2)
    assert "probing a:9900 failed" in caplog.text
    pings.down.clear()
    eventually(lambda: fleet.allows("a:9900"))


def test_a_thread_that_cannot_be_started_is_tried_again(
    fleet: Fleet, pings: Pings, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_threads(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_threads)
        fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
        assert not fleet.allows("a:9900")
    eventually(lambda: fleet.allows("a:9900"))


def test_after_close_nothing_is_probed(fleet: Fleet, pings: Pings) -> None:
    fleet.close()
    fleet.failure("a:9900", TransportTimeoutError("spent"), 5.0)
    assert not fleet.allows("a:9900")
    assert fleet._prober is None
    fleet.close()


def test_the_log_says_why(fleet: Fleet, pings: Pings, eventually: Eventually, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fleet.failure("a:9900", TransportTimeoutError("no answer", remedy="look there"), 5.0)
    eventually(lambda: fleet.allows("a:9900"))
    assert "server a:9900 is not used for now: no answer; look there" in caplog.text
    eventually(lambda: "server a:9900 is used again" in caplog.text)
