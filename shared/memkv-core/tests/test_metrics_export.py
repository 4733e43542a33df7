# SPDX-License-Identifier: Apache-2.0
"""A client's metrics and spans as a scraper and a collector get them, over real sockets."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from memkv_core.client import Client
from memkv_core.config import ClientConfig
from memkv_core.guard import Guard
from memkv_core.metrics import export
from memkv_core.metrics.client_table import TABLE
from memkv_core.metrics.clients import COUNTS
from memkv_core.testing.socket_server import SocketServer

KEY = bytes(range(32))
MakeConfig = Callable[..., ClientConfig]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def server() -> Iterator[SocketServer]:
    with SocketServer([KEY]) as server:
        yield server


@pytest.fixture(autouse=True)
def no_exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (export.PROMETHEUS_VARIABLE, *export.OTEL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    export.stop()
    yield
    export.stop()
    COUNTS.rank = ""


def scraped(address: str) -> Samples:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def exporter_address(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if "memkv metrics at" in record.getMessage()]
    return lines[-1].split("http://")[1].split("/")[0]


def test_prometheus_gets_every_metric_of_the_table(
    server: SocketServer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("prometheus_client", reason="the extra memkv-core[prometheus] is not installed")
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(export.PROMETHEUS_VARIABLE, "127.0.0.1:0")
    COUNTS.rank = "3"
    guard = Guard("an_adapter")
    guard.count("miss", 2)
    config = make_config(server.address, namespace="n")
    with Client(config) as client:
        client.put(["a", "b"], [b"x" * 100, b"y"])
        client.get(["a", "absent"], [bytearray(100), bytearray(1)])
        found = scraped(exporter_address(caplog))
    common = (("namespace", "n"), ("rank", "3"))
    get = (common[0], ("op", "get"), common[1])
    assert found["memkv_client_request_keys_total", get] == 2
    assert found["memkv_client_request_hits_total", get] == 1
    assert found["memkv_client_request_duration_seconds_count", get] == 1
    assert found["memkv_client_misses_total", (("cause", "absent"), *common)] == 1
    assert found["memkv_client_sent_bytes_total", common] == 101
    assert found["memkv_client_breaker_open", (*common, ("server", server.address))] == 0
    assert found["memkv_guard_caught_total", (("adapter", "an_adapter"), ("cause", "miss"), ("rank", "3"))] == 2
    assert {name for name, _ in found} == {name for metric in TABLE.values() for name in metric.exposed}
    # What a client has counted stays when it is closed, and adds up with the next one's.
    with Client(config) as client:
        client.put(["c"], [b"z"])
        again = scraped(exporter_address(caplog))
    assert again["memkv_client_sent_bytes_total", common] == 102


def test_a_taken_port_leads_to_the_next_one(
    server: SocketServer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("prometheus_client", reason="the extra memkv-core[prometheus] is not installed")
    caplog.set_level(logging.INFO)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        port = taken.server_address[1]
        monkeypatch.setenv(export.PROMETHEUS_VARIABLE, f"127.0.0.1:{port}")
        with Client(make_config(server.address)):
            assert port < int(exporter_address(caplog).rpartition(":")[2]) <= port + 64


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MEMKV_PROMETHEUS_BIND", "127.0.0.1:no", "MEMKV_PROMETHEUS_BIND: "),
        ("MEMKV_PROMETHEUS_BIND", "192.0.2.1:9902", "cannot be listened on"),
        ("MEMKV_OTEL_ENDPOINT", "collector:4317", "is no http URL"),
    ],
)
def test_an_exporter_that_cannot_start_is_one_line(
    server: SocketServer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    variable: str, value: str, said: str,
) -> None:  # fmt: skip
    pytest.importorskip("prometheus_client", reason="the extras of memkv-core are not installed")
    pytest.importorskip("opentelemetry.sdk", reason="the extras of memkv-core are not installed")
    monkeypatch.setenv(variable, value)
    config = make_config(server.address)
    monkeypatch.setenv(variable, value)  # make_config clears what begins with MEMKV_
    for _ in range(2):
        with Client(config) as client:
            assert client.put(["k"], [b"v"]) == [True]
    lines = [record.getMessage() for record in caplog.records if record.name == "memkv_core.metrics"]
    assert len(lines) == 1
    assert said in lines[0]
    assert variable in lines[0]


def test_a_library_that_is_missing_is_one_line_that_says_what_to_install() -> None:
    code = (
        "import sys, logging; logging.basicConfig(format='%(message)s')\n"
        "sys.modules['prometheus_client'] = sys.modules['opentelemetry'] = None\n"
        "from memkv_core.metrics import export\n"
        "assert export._EXPORTERS.start() is False and export._EXPORTERS.start() is False\n"
    )
    env = {"MEMKV_PROMETHEUS_BIND": "127.0.0.1:0", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    path = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**path, **env})
    lines = ran.stderr.splitlines()
    assert len(lines) == 2, ran.stderr
    assert "MEMKV_PROMETHEUS_BIND is set" in lines[0]
    assert lines[0].endswith("pip install prometheus-client")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set" in lines[1]
    assert lines[1].endswith("pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http")


_FORKS = """
import logging, os, sys, warnings
warnings.simplefilter("ignore")
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(process)d %(message)s")
from memkv_core import Client, ClientConfig
parent = Client(ClientConfig.load())
parent.put(["k"], [b"v"])
sys.stdout.flush()
if (pid := os.fork()) == 0:
    Client(ClientConfig.load()).put(["k"], [b"v"])
    sys.stdout.flush()
    os._exit(0)
sys.exit(os.waitpid(pid, 0)[1])
"""


def test_the_child_of_a_fork_has_an_exporter_of_its_own(server: SocketServer, license_settings: dict[str, str]) -> None:
    pytest.importorskip("prometheus_client", reason="the extra memkv-core[prometheus] is not installed")
    env = {
        "PYTHONPATH": ":".join(sys.path), "MEMKV_PROMETHEUS_BIND": "127.0.0.1:19902", "MEMKV_SERVERS": server.address,
        "MEMKV_AUTH_KEY": KEY.hex(), **{f"MEMKV_{name.upper()}": value for name, value in license_settings.items()},
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60, check=True, env=env
    )
    lines = [line.split() for line in ran.stdout.splitlines() if "memkv metrics at" in line]
    assert len(lines) == 2, ran.stdout
    assert len({line[0] for line in lines}) == 2, "one of each process"
    assert len({line[4] for line in lines}) == 2, "each at a port of its own"


class Collector(ThreadingHTTPServer):
    """An OTLP collector: keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                received.append((self.path, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        super().__init__(("127.0.0.1", 0), Handler)

    def messages(self, path: str, kind: Any) -> list[Any]:
        return [kind.FromString(body) for at, body in self.received if at == path]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", export.OTEL_VARIABLES)
def test_a_collector_gets_metrics_and_a_span_for_each_call(
    server: SocketServer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, collector: Collector, variable: str
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra memkv-core[otel] is not installed")
    from opentelemetry import trace
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace import TracerProvider

    config = make_config(server.address, namespace="n")
    monkeypatch.setenv(variable, f"http://127.0.0.1:{collector.server_address[1]}/")
    with Client(config) as client:
        with TracerProvider(shutdown_on_exit=False).get_tracer("an engine").start_as_current_span("request") as parent:
            assert isinstance(parent, trace.Span)
            client.put(["k"], [b"value"])
            client.get(["k", "absent"], [bytearray(5), bytearray(5)])
        export.stop()  # sends what there is

    spans = [
        span
        for message in collector.messages("/v1/traces", ExportTraceServiceRequest)
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["memkv.put", "memkv.get"]
    assert {span.parent_span_id.hex() for span in spans} == {f"{parent.get_span_context().span_id:016x}"}
    get = {each.key: each.value.int_value for each in spans[1].attributes}
    assert (get["memkv.keys"], get["memkv.hits"], get["memkv.misses.absent"], get["memkv.received_bytes"]) == (
        2,
        1,
        1,
        5,
    )
    assert 0 < spans[1].end_time_unix_nano - spans[1].start_time_unix_nano < 20e9
    metrics = {
        metric.name: metric
        for message in collector.messages("/v1/metrics", ExportMetricsServiceRequest)
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert set(metrics) == set(TABLE)
    durations = metrics["memkv_client_request_duration_seconds"].histogram.data_points
    assert sum(point.count for point in durations) == 2


def test_nothing_is_imported_or_kept_where_nothing_is_asked_for(server: SocketServer, make_config: MakeConfig) -> None:
    with Client(make_config(server.address)) as client:
        assert client._tracer is None
        assert client not in COUNTS._clients
