# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_core.errors import ConfigError
from memkv_server.bench.plan import Moves, Outcome, Plan, Sample, median_ratio, quantile
from memkv_server.bench.raw import RawLoopback
from memkv_server.bench.run import Report, _Sum
from memkv_server.bench.worker import Worker
from memkv_server.cli.bench import _moved

Cli = Callable[..., Any]
SHORT = ("--rounds", "2", "--slices", "2", "--block-size", "64KiB", "--batch", "8", "--batches", "2")


def client_env(node: Any) -> dict[str, str]:
    settings = node.credentials.client_settings(node.address)
    return {f"MEMKV_{name.upper()}": value if isinstance(value, str) else value[0] for name, value in settings.items()}


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.99, 3.0), ([1, 2, 3], 0.5, 2), ([4, 3, 2, 1], 0.5, 2), (list(range(1, 101)), 0.99, 99)],
)
def test_quantile(values: list[float], q: float, expected: float) -> None:
    assert quantile(values, q) == expected


def test_an_outcome_adds_clients_and_counts_the_slowest() -> None:
    outcome = Outcome("get")
    outcome.samples.append([Sample(1.0, 10, 100, 0, 0, [0.1]), Sample(2.0, 10, 300, 0, 1, [0.3])])
    outcome.samples.append([Sample(2.0, 20, 400, 0, 0, [0.2]), Sample(2.0, 20, 400, 0, 0, [0.2])])
    assert outcome.seconds == 4.0
    assert outcome.bytes_per_second == 300.0
    assert outcome.slice_rates() == [200.0, 400.0]
    assert outcome.last_to_first == outcome.as_json()["last_to_first"] == 2.0
    assert Outcome("get", outcome.samples[:1]).last_to_first is None
    assert outcome.quantile_s(0.5) == 0.2
    assert outcome.as_json()["failures"] == 1
    assert median_ratio([200.0, 400.0, 90.0], [100.0, 800.0, 100.0]) == 0.9


@pytest.mark.parametrize(
    "changes", [{"batch": 0}, {"clients": 65}, {"seconds": 0.0}, {"rounds": 0}, {"operations": ("x",)}]
)
def test_a_plan_that_cannot_be_run(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Plan(**changes).check()


@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
@pytest.mark.parametrize("operation", ["get", "put"])
def test_the_loopback_program_moves_bytes(operation: str) -> None:
    plan = Plan(block_bytes=65536, batch=4, batches=2, clients=2, seconds=0.2, slices=1)
    with RawLoopback() as raw:
        assert raw.run(operation, plan) > 1_000_000


def test_every_operation_of_a_node_is_measured_and_verified(cli: Cli, start_node: Any) -> None:
    node = start_node()
    done = cli("bench", "--json", "--clients", "2", *SHORT, env=client_env(node))
    assert done.returncode == 0, done.stderr
    operations = json.loads(done.stdout)["operations"]
    assert list(operations) == ["put", "get", "exists", "lookup", "mixed"]
    assert [row["calls"] for row in operations.values()] == [8] * 5  # 2 rounds, 2 slices, 2 clients
    assert operations["get"]["bytes"] == 8 * 8 * 65536
    assert operations["get"]["verified_bytes"] == 4 * 8 * 65536  # the last batch of each client and slice
    assert operations["lookup"]["keys"] == 8 * 2000
    assert [row["failures"] for row in operations.values()] == [0] * 5
    assert all(row["p50_us"] <= row["p99_us"] <= row["p999_us"] for row in operations.values())
    assert sum(row["calls"] for row in operations["mixed"]["calls_by_kind"].values()) == 8
    assert node.status()["storage"]["records"] == 0  # it cleaned up


def test_the_table_and_the_picture(cli: Cli, start_node: Any, tmp_path: Path) -> None:
    picture = tmp_path / "latency.svg"
    flags = ("--op", "get", "--op", "mixed", "--rounds", "10", "--transport", "tcp", "--plot", str(picture))
    done = cli("bench", *SHORT, *flags, env=client_env(start_node()))
    assert done.returncode == 0, done.stderr
    assert all(column in done.stdout for column in ("GB/s", "last/first", "p99.9", "  lookup"))
    assert "get 2/2" in done.stderr
    texts = [text.text or "" for text in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"50 %", "99.9 %"} < set(texts)
    assert any(text.startswith("memkv bench --rounds 2") for text in texts)  # the command, the machine, the versions
    assert any("Python" in text and "core" in text for text in texts)


def test_a_run_says_how_far_it_is() -> None:
    said: list[tuple[str, int, int, int, float]] = []

    class Progress:
        def so_far(self, operation: str, index: int, calls: int, moved_bytes: int, seconds: float) -> None:
            said.append((operation, index, calls, moved_bytes, seconds))

    so_far = _Sum(Progress(), "get", 1)  # type: ignore[arg-type]
    so_far(0, 5, 500, 0.25)
    so_far(1, 4, 400, 0.30)
    so_far(0, 9, 900, 0.50)
    assert said == [("get", 1, 5, 500, 0.25), ("get", 1, 9, 900, 0.30), ("get", 1, 13, 1300, 0.50)]


def test_how_the_payload_went() -> None:
    moves = Moves()
    assert not moves
    moves.add(Moves(3 << 20, 0, {"refused": 2}))
    moves.add(Moves(1 << 20, 512, {"refused": 1, "no path": 1}))
    assert moves == Moves(4 << 20, 512, {"refused": 3, "no path": 1})
    assert _moved(moves) == (
        "moved from and to registered memory: 4.0 MiB, through staging: 512 B; "
        "calls that went by tcp: no path 1, refused 3"
    )
    report = Report(Plan(), moves=moves)
    assert report.as_json()["moves"]["staged_bytes"] == 512
    assert "moves" not in Report(Plan()).as_json()


def test_what_a_client_verifies_is_read_anew() -> None:
    """A client that writes nothing into the targets of its last batch is found out."""

    class Lazy:
        def get(self, keys: list[bytes], targets: list[memoryview]) -> list[int]:
            self.calls = getattr(self, "calls", 0) + 1
            return [len(target) for target in targets]

    plan = Plan(block_bytes=4096, batch=4, batches=2, rounds=2)
    sample = Worker(Lazy(), plan, 0).run("get")  # type: ignore[arg-type]
    assert sample.failures == 1
    assert sample.verified_bytes < plan.batch * plan.block_bytes


@pytest.mark.parametrize(
    ("flags", "env", "expected"),
    [
        ((), {"MEMKV_SERVERS": "127.0.0.1:1"}, "could not be stored: unreachable"),
        ((), {"MEMKV_AUTH_KEY": "00" * 32}, "could not be stored: "),
        (("--batches", "400"), {}, "no room for the blocks"),
        (("--compare", "speed"), {}, "use raw or redis"),
        (("--compare", "redis", "--redis-address", "127.0.0.1:1"), {}, "no redis-server at 127.0.0.1:1"),
        (("--block-size", "big"), {}, "is no size"),
        (("--op", "sing"), {}, "use put, get, exists, lookup, mixed"),
        ((), {"MEMKV_LICENSE": "/none"}, "cannot be read"),
        (("--batch", "0"), {}, "--batch 0"),
        (("--transport", "pigeon"), {}, "auto | tcp | shm | rdma"),
        (("--transport", "rdma"), {}, "transport=rdma, and no device is named; set MEMKV_RDMA_DEVICES"),
        (("--plot", "no/such/folder/x.svg"), {}, "there is no such folder"),
    ],
)
def test_nothing_to_measure(
    cli: Cli, start_node: Any, flags: tuple[str, ...], env: dict[str, str], expected: str
) -> None:
    done = cli("bench", *SHORT, *flags, env={**client_env(start_node()), **env})
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("memkv: ")
    assert expected in last
