# SPDX-License-Identifier: Apache-2.0
"""Every bound and default of the simulator."""

from __future__ import annotations

from typing import Final

from memkv_core.limits import MIB, VALUE_BYTES_MAX

KEY_BYTES: Final = 32  # of a simulated record
BLOCK_BYTES_DEFAULT: Final = MIB
BLOCK_BYTES_MIN: Final = 1
BLOCK_BYTES_MAX: Final = VALUE_BYTES_MAX
CAPACITY_SHARES_DEFAULT: Final = tuple(f"{percent}%" for percent in range(5, 55, 5))
CAPACITIES_MAX: Final = 200  # in one run
SEGMENTS_MAX: Final = 1_000_000
SEGMENT_BLOCKS_MIN: Final = 16  # where a node's own segments hold fewer, a small trace is cut more finely instead
PROGRESS_STEPS: Final = 100  # a replay reports that it has come further so many times
