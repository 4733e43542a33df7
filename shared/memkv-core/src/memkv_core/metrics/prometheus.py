# SPDX-License-Identifier: Apache-2.0
"""A client's metrics for Prometheus, on a port of its process. Needs ``prometheus-client``."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterable
from http.server import ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from memkv_core.address import parse_address
from memkv_core.errors import ConfigError
from memkv_core.limits import EXPORTER_PORTS_MAX
from memkv_core.log import get_logger
from memkv_core.metrics.catalogue import Metric
from memkv_core.metrics.client_table import TABLE
from memkv_core.metrics.clients import ClientCounts
from memkv_core.metrics.histogram import LATENCY_POWERS, cumulative

_LOG = get_logger("memkv_core.metrics")
_PORT: Final = 9902


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: Any) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), handler)


class Exporter:
    """Serves ``/metrics`` from a thread of its own until the process ends."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        host, port = server.server_address[:2]
        self.address = f"{host!s}:{port}"
        threading.Thread(target=server.serve_forever, name="memkv-metrics", daemon=True).start()

    def forget(self) -> None:
        """In the child of a fork: lets go of the parent's port."""
        self._server.socket.close()

    def close(self) -> None:
        """Ends the thread and frees the port."""
        self._server.shutdown()
        self._server.server_close()


class ClientCollector(Collector):
    """Yields the metrics of this process, in the order of the table."""

    def __init__(self, counts: ClientCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Family]:
        families: dict[str, Any] = {name: _family(metric) for name, metric in TABLE.items()}
        for name, labels, value in self._counts.samples():
            if TABLE[name].kind == "histogram":
                total, buckets = value
                bounds = [
                    ("+Inf" if bound == float("inf") else str(bound), count)
                    for bound, count in cumulative(buckets, LATENCY_POWERS)
                ]
                families[name].add_metric(labels, bounds, total)
            else:
                families[name].add_metric(labels, value)
        return families.values()


def _family(metric: Metric) -> Family:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family: Family = kinds[metric.kind](metric.stem, metric.text, labels=metric.labels)
    return family


def serve(bind: str, counts: ClientCounts) -> Exporter:
    """Serves at ``host:port``, or at the first free port above it: the ranks of an engine on one host share a setting.

    Raises ConfigError where the address is none, or none of its ports is free.
    """
    address = parse_address(bind, _PORT, port_min=0)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ClientCollector(counts))
    handler = MetricsHandler.factory(registry)
    last = min(address.port + EXPORTER_PORTS_MAX, 65536) if address.port else 1
    for port in range(address.port, last):
        try:
            exporter = Exporter(_Server(address.host, port, handler))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise ConfigError(
                f"{bind} cannot be listened on ({error.strerror})", remedy="name one of this host's"
            ) from error
        _LOG.info("memkv metrics at http://%s/metrics rank=%s", exporter.address, counts.rank)
        return exporter
    raise ConfigError(f"{bind} and the ports above it are taken", remedy="name another port")
