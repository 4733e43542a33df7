# SPDX-License-Identifier: Apache-2.0
"""Every metric of a node. ``metrics.py`` fills it in, ``docs/metrics.md`` is made of it."""

from __future__ import annotations

from typing import Final

from memkv_core.metrics.catalogue import Metric, Section, by_name

_LANE: Final = ("lane",)
_OP: Final = ("lane", "transport", "op")
_DRIVE: Final = ("lane", "path")
_NAMESPACE: Final = ("namespace",)

SECTIONS: Final = (
    Section(
        "Node",
        (
            Metric("memkv_build_info", "gauge", "1; the version of the node", ("version",)),
            Metric("memkv_start_time_seconds", "gauge", "When the node started, seconds since the epoch"),
            Metric("memkv_ready", "gauge", "1 while the node takes data connections"),
            Metric("memkv_draining", "gauge", "1 while the node is drained: it lets its clients go and takes none"),
            Metric("memkv_health", "gauge", "1 for the state: healthy, degraded, unhealthy", ("status",)),
            Metric("memkv_license_expiry_seconds", "gauge", "When the license ends, seconds since the epoch"),
            Metric(
                "memkv_process_resident_bytes", "gauge",
                "Resident memory of a process; kind file is page cache, which the kernel can take", ("process", "kind"),
            ),
        ),
    ),
    Section(
        "Connections and sessions",
        (
            Metric("memkv_accepted_connections_total", "counter", "Connections accepted on the data port"),
            Metric("memkv_waiting_connections", "gauge", "Connections that have not said HELLO"),
            Metric(
                "memkv_refused_connections_total", "counter",
                "Closed before a lane had them: not_memkv, timeout, crowded, lane_down, disconnected", ("cause",),
            ),
            Metric("memkv_connections", "gauge", "Open client connections", ("lane", "transport")),
            Metric("memkv_sessions", "gauge", "Authenticated sessions", _LANE),
            Metric(
                "memkv_session_errors_total", "counter",
                "Sessions refused or ended by an error: auth (a wrong key), protocol, identity (a namespace with "
                "another identity), stalled, lost, internal (a bug)", ("lane", "cause"),
            ),
        ),
    ),
    Section(
        "Operations",
        (
            Metric("memkv_requests_total", "counter", "Frames handled", _OP),
            Metric("memkv_request_keys_total", "counter", "Keys in these frames", _OP),
            Metric(
                "memkv_request_hits_total", "counter",
                "Keys found (get, exists, lookup, verify, delete) or stored (put)", _OP,
            ),
            Metric(
                "memkv_request_misses_total", "counter",
                "Keys not found or not stored: absent, too_long (for the target, or for a segment), corrupt, no_space, "
                "read_only", (*_OP, "cause"),
            ),
            Metric("memkv_request_errors_total", "counter", "Frames answered with an error", (*_OP, "code")),
            Metric("memkv_received_bytes_total", "counter", "Payload bytes received", _OP),
            Metric("memkv_sent_bytes_total", "counter", "Payload bytes sent", _OP),
            Metric(
                "memkv_request_duration_seconds", "histogram",
                "From a frame's head until the last byte of its answer is with the kernel: the payload's way through "
                "the network and waits for the drive included", _OP,
            ),
            Metric(
                "memkv_request_busy_seconds_total", "counter",
                "The lane's own time for these frames; its rate, summed, is how busy the lane's one core is", _OP,
            ),
        ),
    ),
    Section(
        "Lanes and queues",
        (
            Metric("memkv_lane_serving", "gauge", "1 while the lane serves", _LANE),
            Metric("memkv_lane_restarts_total", "counter", "Times the lane was started again", _LANE),
            Metric(
                "memkv_lane_activity_connections", "gauge",
                "Connections by what they are at: idle, receiving, sending, waiting (for the drive)",
                ("lane", "activity"),
            ),
            Metric("memkv_lane_pending_answers", "gauge", "Answers that wait for the drive", _LANE),
        ),
    ),
    Section(
        "Storage",
        (
            Metric("memkv_storage_capacity_bytes", "gauge", "Hard bound of what the lane may hold", _LANE),
            Metric(
                "memkv_storage_used_bytes", "gauge",
                "Bytes taken, with records that are no longer live; near the capacity is normal", _LANE,
            ),
            Metric("memkv_storage_live_bytes", "gauge", "Bytes of live records", _LANE),
            Metric("memkv_storage_records", "gauge", "Live records", _LANE),
            Metric("memkv_storage_index_bytes", "gauge", "Memory of the index", _LANE),
            Metric("memkv_storage_recovery_seconds", "gauge", "Time the last start took to rebuild the index", _LANE),
            Metric("memkv_segments", "gauge", "Segments: total, free, sealed, quarantined", ("lane", "state")),
            Metric("memkv_written_bytes_total", "counter", "Bytes of records that puts have written", _LANE),
            Metric("memkv_evicted_segments_total", "counter", "Segments evicted to make room", _LANE),
            Metric("memkv_evicted_records_total", "counter", "Live records lost by that", _LANE),
            Metric("memkv_evicted_bytes_total", "counter", "Bytes of these records", _LANE),
            Metric(
                "memkv_eviction_age_seconds", "histogram",
                "Age of each evicted segment, since it was begun: how long a block stays that nobody reads", _LANE,
            ),
            Metric("memkv_reinserted_records_total", "counter", "Records copied forward as they had been read", _LANE),
            Metric("memkv_reinserted_bytes_total", "counter", "Bytes of these records", _LANE),
            Metric("memkv_corrupt_records_total", "counter", "Records dropped: not the bytes that were put", _LANE),
            Metric("memkv_unreadable_records_total", "counter", "Records dropped: the drive did not give them", _LANE),
            Metric(
                "memkv_crowded_out_records_total", "counter",
                "Misses because the RAM pool of mode direct was in use by others", _LANE,
            ),
            Metric("memkv_syncs_total", "counter", "Group commits that puts and deletes waited for", _LANE),
            Metric("memkv_sync_requests_total", "counter", "Puts and deletes that waited for one", _LANE),
            Metric("memkv_sync_seconds_total", "counter", "Time in these commits", _LANE),
        ),
    ),
    Section(
        "Drives",
        (
            Metric("memkv_drive_state", "gauge", "1 for the state: online, read-only, offline", (*_DRIVE, "state")),
            Metric("memkv_drive_capacity_bytes", "gauge", "Hard bound of the drive", _DRIVE),
            Metric("memkv_drive_used_bytes", "gauge", "Bytes taken on the drive", _DRIVE),
            Metric("memkv_drive_records", "gauge", "Live records on the drive", _DRIVE),
            Metric("memkv_drive_errors_total", "counter", "Reads and writes that failed", (*_DRIVE, "kind")),
            Metric("memkv_drive_job_running", "gauge", "1 while a job (scrub) works on it", (*_DRIVE, "job")),
            Metric(
                "memkv_drive_pool_bytes", "gauge", "RAM pool of mode direct: max, used, unwritten", (*_DRIVE, "kind"),
            ),
            Metric("memkv_drive_pool_loaded_bytes_total", "counter", "Read from the drive into the pool", _DRIVE),
            Metric("memkv_drive_pool_evicted_bytes_total", "counter", "Dropped from the pool to make room", _DRIVE),
        ),
    ),
    Section(
        "Namespaces (the 96 largest of each lane)",
        (
            Metric("memkv_namespaces", "gauge", "Namespaces known"),
            Metric("memkv_namespace_info", "gauge", "1; the digest of its identity", ("namespace", "identity")),
            Metric("memkv_namespace_records", "gauge", "Live records of a namespace", _NAMESPACE),
            Metric("memkv_namespace_bytes", "gauge", "Live bytes of a namespace", _NAMESPACE),
            Metric("memkv_namespace_quota_bytes", "gauge", "Bound of its live bytes, where there is one", _NAMESPACE),
            Metric("memkv_namespace_ttl_seconds", "gauge", "How long its records are served, if bounded", _NAMESPACE),
            Metric("memkv_namespace_hits_total", "counter", "Keys that gets found in it", _NAMESPACE),
            Metric("memkv_namespace_misses_total", "counter", "Keys that gets did not find in it", _NAMESPACE),
            Metric("memkv_namespace_expired_records_total", "counter", "Records that outlived its TTL", _NAMESPACE),
            Metric(
                "memkv_namespace_over_quota_records_total", "counter", "Oldest records given up for its quota",
                _NAMESPACE,
            ),
        ),
    ),
)  # fmt: skip
TABLE: Final = by_name(SECTIONS)
