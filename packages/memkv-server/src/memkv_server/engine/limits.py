# SPDX-License-Identifier: Apache-2.0
"""Every bound of the storage engine, in one place. Sizes end in ``_BYTES``, times in ``_S``, counts in ``_MAX``."""

from __future__ import annotations

from typing import Final

from memkv_core.limits import KIB, MIB

# Segments: the unit of eviction. A value never spans two, so a segment bounds the longest value.
SEGMENT_BYTES_MIN: Final = 64 * KIB  # what may be asked for; tests use it to turn a whole store over in milliseconds
SEGMENT_BYTES_MAX: Final = 1024 * MIB
SEGMENT_BYTES_DEFAULT_MIN: Final = 4 * MIB
SEGMENT_BYTES_DEFAULT_MAX: Final = 256 * MIB
SEGMENT_COUNT_WANTED: Final = 32  # the default size is the largest power of two that still gives so many
SEGMENT_COUNT_MIN: Final = 4  # one being written, one kept free, and something left to serve from

# A lane's drive is addressed in units of 64 bytes with 40 bits.
DRIVE_BYTES_MAX: Final = 64 << 40

# The registry of namespaces: a durable log of its own, sized with the drive. One half of it is in use at a time.
REGISTRY_BYTES_MIN: Final = 64 * KIB
REGISTRY_BYTES_MAX: Final = 32 * MIB
REGISTRY_SHARE: Final = 128  # one byte of registry for so many bytes of capacity
NAMESPACE_COUNT_MAX: Final = 65_536
# How old records are, see age.py: between two marks, of the shortest TTL; and what is kept of them.
MARK_INTERVAL_S_MAX: Final = 600
MARK_TTL_SHARE: Final = 32
MARK_ACCURACY: Final = 64
MARK_COUNT_MAX: Final = 1024
HOUSEKEEPING_S: Final = 0.25  # between two looks for what has expired
EXPIRE_SLICE_RECORDS: Final = 256
LIST_PIECE_RECORDS: Final = 512  # looked into at once for an operator's list of keys
LIST_PIECE_S: Final = 0.001  # or for so long

DROPPED_SHARE: Final = 4  # one byte in so many for namespaces that were dropped, and for marks

# Eviction. Survivors copied forward are at most this share of what users wrote: write amplification <= 1.29.
REINSERT_SHARE_MAX: Final = 0.29
REINSERT_SEGMENT_SHARE_MAX: Final = 0.75  # of one segment's bytes
REINSERT_SAVED_SHARE_MAX: Final = 0.125  # of the capacity: what a time without copying may save up
REINSERT_BAR_WINDOW_SHARE: Final = 0.3  # of the segments: how far back the worth of candidates is compared
FREE_SEGMENTS_AHEAD: Final = 1
SEGMENT_COUNT_ROOMY: Final = 8  # from here on one more is kept free where puts wait for the drive
CLEAN_SLICE_RECORDS: Final = 128  # entries looked at between two looks at the clock
COPY_SLICE_BYTES: Final = 512 * KIB  # bytes copied forward between two looks at the clock
LOOK_BY_SHARE: Final = 0.1  # the victim's entries have been looked at when so much of the current segment is filled
COPY_AHEAD_FACTOR: Final = 1.25  # copying is done when 1 / 1.25 of the users' part of the current segment is filled
TICK_BUDGET_S: Final = 0.000_3

# Durability "relaxed": dirty pages are on their way to the drive at most this long after a put.
SYNC_INTERVAL_S: Final = 1.0

# Pages are made writable in one call, and so much ahead where values are small.
PREPARE_BYTES_MIN: Final = 64 * KIB
JUMP_BITS: Final = 32  # of the random distance from which a start goes on with sequence numbers of segments
# A scan brings a segment into memory in pieces.
SCAN_BYTES: Final = 4 * MIB
LOAD_PARTS: Final = 64  # segment headers read side by side

# Drives that fail. One unreadable spot is a miss; several in one life of a drive are its end.
READ_ERRORS_READ_ONLY: Final = 4
READ_ERRORS_OFFLINE: Final = 16
RETRY_S_MIN: Final = 2.0  # between two tries to open a drive again, doubled after each
RETRY_S_MAX: Final = 30.0
STEADY_S: Final = 600.0  # a drive that served so long is tried at the shortest interval again
WATCH_S: Final = 0.25

# Mode direct: the RAM pool of a drive.
POOL_BYTES_MIN: Final = 64 * MIB
POOL_BYTES_DEFAULT: Final = 1024 * MIB  # of a node, shared by its drives
POOL_BUSY_SHARE: Final = 0.875  # held by readers or not yet on the drive; the rest is for what the engine looks at
POOL_UNWRITTEN_SHARE: Final = 0.5
POOL_RECORD_SHARE: Final = 0.125  # the longest record
POOL_SWEEP_BYTES: Final = 4 * MIB  # so much is evicted at a time
CROWDED_WAIT_S: Final = 1.0  # a get waits so long for memory that others hold
FETCH_THREADS: Final = 4  # batches that are read from one drive side by side
IO_THREADS: Final = 8  # reads side by side
READ_BYTES_MAX: Final = 1 * MIB  # of one preadv
WRITE_BYTES_MAX: Final = 8 * MIB  # of one pwritev, which the kernel cuts up and sends side by side

# Whole devices: filesystems, volumes and tables begin, or end, in what is looked at before one is taken for blank.
DEVICE_HEAD_BYTES: Final = 1 * MIB
DEVICE_TAIL_BYTES: Final = 128 * KIB
FILESYSTEM_SPARE_BYTES: Final = 1 * MIB  # left of a filesystem where a capacity is 100 %
