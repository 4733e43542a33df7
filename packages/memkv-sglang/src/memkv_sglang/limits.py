# SPDX-License-Identifier: Apache-2.0
"""Every bound of the adapter. Sizes end in ``_BYTES``, times in ``_MS`` or ``_S``, counts in ``_COUNT``."""

from __future__ import annotations

from typing import Final

# sglang joins the threads that call a backend for 10 s each and raises when one is still inside (its reset()), so no
# call may come near that, whatever the operator asks for.
CALL_TIMEOUT_MS_MAX: Final = 8_000

# The hybrid controller asks for a whole prompt in one call: 128k tokens at page size 1 are 128k keys. A call is cut
# into pieces of this many keys, so that an early miss ends it.
EXISTS_KEYS_COUNT: Final = 4_096

# A suffix longer than this (a model served from a long path) keeps its head and ends in a digest.
SUFFIX_BYTES_MAX: Final = 255

# What the weights fingerprint reads at most: whole files up to the first bound in all, samples beyond it.
FINGERPRINT_WHOLE_BYTES_MAX: Final = 64 * 1024 * 1024
FINGERPRINT_SAMPLE_COUNT: Final = 4_096
FINGERPRINT_SAMPLE_BYTES: Final = 256
FINGERPRINT_HEADER_BYTES_MAX: Final = 64 * 1024 * 1024

# Transfers remembered between two reads of get_stats(); older ones are dropped.
STATS_TRANSFERS_COUNT: Final = 4_096

# How old the generation of a namespace (see generation.py) may be; another process's clear() is seen within this.
GENERATION_REFRESH_S: Final = 2.0

# What the prefill speed is seen by (saving.py): marked pages that the engine was told are missing, and how long it may
# take until it hands them over; a longer wait says nothing of its speed.
SAVING_MARKS_COUNT: Final = 4_096
SAVING_WAIT_S: Final = 60.0
