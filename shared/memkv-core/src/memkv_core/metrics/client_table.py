# SPDX-License-Identifier: Apache-2.0
"""Every metric of a client: of a process of an engine, over all clients that it made for a namespace."""

from __future__ import annotations

from typing import Final

from memkv_core.metrics.catalogue import Metric, Section, by_name

_COMMON: Final = ("namespace", "rank")
_OP: Final = (*_COMMON, "op")

SECTIONS: Final = (
    Section(
        "Client",
        (
            Metric("memkv_client_info", "gauge", "1; version and transport", (*_COMMON, "version", "transport")),
            Metric("memkv_client_requests_total", "counter", "Calls of an engine", _OP),
            Metric("memkv_client_request_keys_total", "counter", "Keys in these calls", _OP),
            Metric("memkv_client_request_hits_total", "counter", "Keys found, stored or deleted", _OP),
            Metric(
                "memkv_client_misses_total", "counter",
                "Keys that were no hit: absent, too_long, corrupt, timeout, unreachable, refused, declined, error",
                (*_COMMON, "cause"),
            ),
            Metric("memkv_client_sent_bytes_total", "counter", "Payload bytes of puts", _COMMON),
            Metric("memkv_client_received_bytes_total", "counter", "Payload bytes of gets", _COMMON),
            Metric(
                "memkv_client_moved_bytes_total", "counter",
                "Payload that servers moved themselves (shm, rdma), by the client's memory: registered, and not copied "
                "by the client, or staged", (*_COMMON, "memory"),
            ),
            Metric(
                "memkv_client_move_fallbacks_total", "counter",
                "Calls whose payload went by TCP in place of shm or rdma", (*_COMMON, "cause"),
            ),
            Metric("memkv_client_retries_total", "counter", "Calls made again on another connection", _COMMON),
            Metric("memkv_client_breaker_opened_total", "counter", "Times that a server was given up for now", _COMMON),
            Metric("memkv_client_breaker_open", "gauge", "1 while a server is not used", (*_COMMON, "server")),
            Metric("memkv_client_request_duration_seconds", "histogram", "Time of a call", _OP),
        ),
    ),
    Section(
        "Guard",
        (
            Metric(
                "memkv_guard_caught_total", "counter",
                "What went wrong inside an adapter and became a miss: miss, timeout, unreachable, corrupt, refused, "
                "error (a wrong setting, or a bug)", ("rank", "adapter", "cause"),
            ),
        ),
    ),
)  # fmt: skip
TABLE: Final = by_name(SECTIONS)
