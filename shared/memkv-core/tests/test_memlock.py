# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import resource

from memkv_core.transports.memlock import shortfall

STATUS = "Name:\tpython\nVmLck:\t       0 kB\nVmPin:\t    1024 kB\nCapEff:\t0000000000000000\n"
MIB = 1 << 20


def test_what_is_pinned_already_counts() -> None:
    assert shortfall(7 * MIB, 8 * MIB, STATUS) is None
    told = shortfall(7 * MIB + 1, 8 * MIB, STATUS)
    assert told is not None
    assert told.startswith(
        "RLIMIT_MEMLOCK is 8388608 bytes, 8388609 are needed to register 7340033 more; raise it (docker"
    )


def test_who_may_lock_all() -> None:
    assert shortfall(1 << 40, 0, STATUS.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000004000")) is None
    assert shortfall(1 << 40, resource.RLIM_INFINITY, STATUS) is None


def test_a_kernel_that_says_nothing() -> None:
    assert shortfall(1, 1, "") is None
    assert shortfall(2, 1, "") is not None


def test_this_process() -> None:
    assert shortfall(0) is None
