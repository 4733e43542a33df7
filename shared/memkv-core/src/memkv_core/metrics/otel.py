# SPDX-License-Identifier: Apache-2.0
"""A client's metrics and a span for each of its calls, by OTLP over HTTP. Needs the OpenTelemetry SDK and exporter.

Providers of our own, so that an engine's are left as they are. A span's parent is whatever span is current in the
calling thread, so that an engine that traces its requests finds ours within them.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from memkv_core._version import __version__
from memkv_core.errors import ConfigError
from memkv_core.log import get_logger
from memkv_core.metrics.catalogue import Metric
from memkv_core.metrics.client_table import TABLE
from memkv_core.metrics.clients import ClientCounts, Sample
from memkv_core.metrics.histogram import LATENCY_POWERS, MICROSECOND_S

_LOG = get_logger("memkv_core.metrics")
_DURATION: Final = "memkv_client_request_duration_seconds"
_CLOSE_MS: Final = 2_000


class OtelTracer:
    """``export.Tracer``. Sends from the SDK's own threads."""

    def __init__(self, traces: TracerProvider, metrics: MeterProvider, counts: ClientCounts) -> None:
        self._traces, self._metrics = traces, metrics
        self._counts = counts
        self._tracer = traces.get_tracer("memkv", __version__)
        meter = metrics.get_meter("memkv", __version__)
        for name, metric in TABLE.items():
            if metric.kind == "counter":
                meter.create_observable_counter(name, [_observe(metric, counts)], description=metric.text)
            elif metric.kind == "gauge":
                meter.create_observable_gauge(name, [_observe(metric, counts)], description=metric.text)
        self._durations = meter.create_histogram(_DURATION, unit="s", description=TABLE[_DURATION].text)
        atexit.register(self.close)

    def call(self, operation: str, namespace: str, elapsed_s: float, counts: dict[str, int]) -> None:
        """A span that ends now, and an observation."""
        end_ns = time.time_ns()
        attributes: dict[str, str | int] = {
            "db.system": "memkv", "db.operation": operation, "db.namespace": namespace,
            **{f"memkv.{name}": count for name, count in counts.items()},
        }  # fmt: skip
        span = self._tracer.start_span(
            f"memkv.{operation}", kind=SpanKind.CLIENT, attributes=attributes, start_time=end_ns - int(elapsed_s * 1e9)
        )
        span.end(end_ns)
        self._durations.record(elapsed_s, {"namespace": namespace, "rank": self._counts.rank, "op": operation})

    def close(self) -> None:
        """Sends what is left, for a bounded time. Idempotent."""
        atexit.unregister(self.close)
        self._traces.force_flush(_CLOSE_MS)
        self._traces.shutdown()
        self._metrics.shutdown(_CLOSE_MS)


def _observe(metric: Metric, counts: ClientCounts) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(sample.value, dict(zip(metric.labels, sample.labels))) for sample in _of(metric.name, counts)
        ]

    return observe


def _of(name: str, counts: ClientCounts) -> Iterable[Sample]:
    return [sample for sample in counts.samples() if sample.name == name]


def connect(endpoint: str, counts: ClientCounts) -> OtelTracer:
    """Sends to the collector at ``endpoint`` (``http://host:4318``). Raises ConfigError where that is no such URL."""
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise ConfigError(
            f"{endpoint!r} is no http URL", remedy="name the collector's OTLP/HTTP port: http://host:4318"
        )
    base = endpoint.rstrip("/")
    resource = Resource.create(
        {"service.name": "memkv-client", "service.version": __version__, "memkv.rank": counts.rank}
    )
    traces = TracerProvider(resource=resource, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{base}/v1/traces")))
    buckets = ExplicitBucketHistogramAggregation([2**power * MICROSECOND_S for power in LATENCY_POWERS])
    metrics = MeterProvider(
        [PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{base}/v1/metrics"))],
        resource=resource,
        views=[View(instrument_name=_DURATION, aggregation=buckets)],
        shutdown_on_exit=False,
    )
    _LOG.info("memkv metrics and spans go to %s rank=%s", base, counts.rank)
    return OtelTracer(traces, metrics, counts)
