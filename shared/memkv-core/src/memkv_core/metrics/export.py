# SPDX-License-Identifier: Apache-2.0
"""Where a process's metrics go: nowhere, unless the environment says so.

    MEMKV_PROMETHEUS_BIND=host:port   served to Prometheus; each process takes the first free port from this one on
    MEMKV_OTEL_ENDPOINT=http://...    metrics, and a span for each call, by OTLP over HTTP;
                                      without it, OTEL_EXPORTER_OTLP_ENDPOINT

The libraries for that are optional extras (``memkv-core[prometheus]``, ``memkv-core[otel]``), imported only then. An
exporter that cannot start is one line in the log: the engine goes on without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from memkv_core import forks
from memkv_core.errors import MemKVError
from memkv_core.log import get_logger
from memkv_core.metrics.clients import COUNTS, Source

PROMETHEUS_VARIABLE: Final = "MEMKV_PROMETHEUS_BIND"
OTEL_VARIABLES: Final = ("MEMKV_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# Named one by one, and not as extras: a package that bears our name on the public index is another vendor's.
PROMETHEUS_PACKAGES: Final = "prometheus-client"
OTEL_PACKAGES: Final = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"

_LOG = get_logger("memkv_core.metrics")


class Tracer(Protocol):
    """Told of every call of a client once it has ended."""

    def call(self, operation: str, namespace: str, elapsed_s: float, counts: dict[str, int]) -> None:
        """Thread-safe; returns at once and never raises."""

    def close(self) -> None:
        """Sends what is left, for a bounded time."""


class _Exporters:
    """Of this process: each is started once, by the first client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = False
        self.tracer: Tracer | None = None
        self._prometheus: Any = None
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._prometheus is not None:
            self._prometheus.forget()  # the thread is the parent's, and so is the port
        self._started, self.tracer, self._prometheus = False, None, None

    def start(self) -> bool:
        """Whether there is any."""
        with self._lock:
            if self._started:
                return self.tracer is not None or self._prometheus is not None
            self._started = True
            bind = os.environ.get(PROMETHEUS_VARIABLE)
            variable = next((name for name in OTEL_VARIABLES if os.environ.get(name)), None)
            if bind:
                self._prometheus = _tried(PROMETHEUS_VARIABLE, PROMETHEUS_PACKAGES, lambda: _serve(bind))
            if variable is not None and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
                self.tracer = _tried(variable, OTEL_PACKAGES, lambda: _send(os.environ[variable]))
            return self.tracer is not None or self._prometheus is not None

    def stop(self) -> None:
        """Ends them; the next client starts them anew."""
        with self._lock:
            for exporter in (self.tracer, self._prometheus):
                if exporter is not None:
                    exporter.close()
            self._started, self.tracer, self._prometheus = False, None, None


_EXPORTERS: Final = _Exporters()


def stop() -> None:
    """Sends what is left and ends the exporters of this process; for tests and for hosts that outlive their engine."""
    _EXPORTERS.stop()


def name_rank(rank: object) -> None:
    """Which process of an engine this is: the label ``rank``. To be said before the first client is made."""
    COUNTS.rank = str(rank)


def watch(client: Source) -> Tracer | None:
    """Measures a client from now on, and says whom to tell of its calls, if anybody."""
    if _EXPORTERS.start():
        COUNTS.add(client)
    return _EXPORTERS.tracer


def _serve(bind: str) -> Any:
    from memkv_core.metrics.prometheus import serve

    return serve(bind, COUNTS)


def _send(endpoint: str) -> Tracer:
    from memkv_core.metrics.otel import connect

    return connect(endpoint, COUNTS)


def _tried(variable: str, packages: str, start: Callable[[], Any]) -> Any:
    try:
        return start()
    except ImportError as error:
        _LOG.warning(
            "%s is set, and %s is not installed: nothing is exported; pip install %s",
            variable, error.name or "a library", packages,
        )  # fmt: skip
    except MemKVError as error:
        _LOG.warning("%s: %s", variable, error)
    return None
