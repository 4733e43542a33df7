# SPDX-License-Identifier: Apache-2.0
"""What an engine says of itself and of one drive, for status and metrics."""

from __future__ import annotations

from typing import Any

from memkv_core.metrics.histogram import sparse
from memkv_server.engine.counters import Counters
from memkv_server.engine.drive import Drive
from memkv_server.engine.durability import Level
from memkv_server.engine.index import Index
from memkv_server.engine.pool import Phase, SegmentPool
from memkv_server.engine.segment import SEGMENT_DATA_AT


def engine_usage(drive: Drive, pool: SegmentPool, index: Index, counters: Counters, level: Level) -> dict[str, Any]:
    """See ``Engine.usage``: all of it but the syncs and the namespaces. Cheap."""
    geometry = drive.geometry
    health = drive.health
    phases = [segment.phase for segment in pool.segments]
    used = sum(
        segment.tail - SEGMENT_DATA_AT
        for segment in pool.segments
        if segment.phase in (Phase.OPEN, Phase.CLOSED, Phase.SEALED, Phase.CONDEMNED)
    )
    return {
        "capacity_bytes": geometry.data_bytes,
        "used_bytes": used,
        "live_bytes": sum(account.bytes for account in index.usage.values()),
        "records": sum(account.records for account in index.usage.values()),
        "segments": {
            "total": len(phases),
            "free": phases.count(Phase.FREE),
            "sealed": phases.count(Phase.SEALED),
            "quarantined": phases.count(Phase.QUARANTINED),
            "bytes": geometry.segment_bytes,
        },
        "user_bytes": counters.user_bytes,
        "evicted_segments": counters.evicted_segments,
        "evicted_records": counters.evicted_records,
        "evicted_bytes": counters.evicted_bytes,
        "reinserted_records": counters.reinserted_records,
        "reinserted_bytes": counters.reinserted_bytes,
        "corrupt_records": counters.corrupt_records,
        "unreadable_records": counters.unreadable_records,
        "crowded_out_records": counters.crowded_out_records,
        "eviction_age": {"sum": counters.eviction_age_seconds, "buckets": sparse(counters.eviction_ages)},
        "recovery_seconds": counters.recovery_seconds,
        "index_bytes": index.memory_bytes,
        "drives": [
            {
                "path": drive.path,
                "mode": drive.mode,
                "state": health.state.value,
                "failure": health.failure,
                "durability": level.value,
                "read_errors": health.read_errors,
                "write_errors": health.write_errors,
                "capacity_bytes": geometry.store_bytes,
                "used_bytes": used,
                "records": len(index),
                "segments": {
                    "total": len(phases),
                    "used": len(phases) - phases.count(Phase.FREE),
                    "quarantined": phases.count(Phase.QUARANTINED),
                },
                "format_version": geometry.format_version,
                "uuid": geometry.uuid.hex(),
                **drive.details(),
            }
        ],
    }
