# SPDX-License-Identifier: Apache-2.0
"""Every bound of the adapter. Sizes end in ``_BYTES`` or ``_MB``, times in ``_MS``, counts in ``_COUNT``."""

from __future__ import annotations

from typing import Final

# LMCache forgets a read lock after 300 s and a write lock after 600 s, and puts no deadline of its own on an L2 task:
# a task that is not settled by then writes into memory that someone else has. So no task may come near that.
TASK_TIMEOUT_MS_MAX: Final = 60_000

# Inside vLLM a retrieve holds the forward pass, and a lookup holds the scheduler.
CALL_TIMEOUT_MS_MAX: Final = 30_000
LOOKUP_SHARE: Final = 0.8  # of LMCache's lookup_timeout_ms: the answer must travel too

# Threads that move chunks, for each of store and load; lookups have threads of their own.
IO_THREADS_COUNT: Final = 8
IO_THREADS_COUNT_MAX: Final = 64
LOOKUP_THREADS_COUNT: Final = 2
# A store or load of more than this is moved by several of them at once, each its part, no smaller than this.
PART_BYTES_MIN: Final = 4 * 1024 * 1024

# Tasks that wait for a thread, and results that nobody has asked for yet (an aborted prefetch never asks).
TASKS_QUEUED_COUNT_MAX: Final = 65_536
RESULTS_KEPT_COUNT_MAX: Final = 65_536

# Layouts remembered for one object group of one model: more than one means that replicas differ in dtype or geometry.
LAYOUTS_COUNT_MAX: Final = 4
LAYOUT_GROUPS_COUNT_MAX: Final = 4_096

# Keys remembered for list_l2_keys and get_usage, about 400 bytes each.
LEDGER_KEYS_COUNT_MAX: Final = 200_000

# Bytes of chunks that wait to be stored, in-process mode: they hold LMCache's host memory meanwhile.
PUT_QUEUE_MB: Final = 512
PUT_QUEUE_MB_MAX: Final = 1024 * 1024
# A chunk that has waited this long is dropped, so that its memory comes back.
PUT_WAIT_MS_MAX: Final = 30_000
PUT_THREADS_COUNT: Final = 2
# What close() waits for queued chunks, so that a tidy shutdown leaves a warm cache; LMCache joins for 10 s.
CLOSE_DRAIN_MS: Final = 3_000

# Layers of a chunk are read together and kept until the engine asks for each; what nobody asks for is given back.
LAYERS_KEPT_MS_MAX: Final = 300_000

# How long a check waits for one answer of a server.
CHECK_TIMEOUT_MS: Final = 2_000
