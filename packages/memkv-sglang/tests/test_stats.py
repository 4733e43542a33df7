# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

from memkv_sglang.limits import STATS_TRANSFERS_COUNT
from memkv_sglang.stats import TransferStats


def test_a_transfer_under_way_while_stats_are_read_is_not_lost() -> None:
    stats = TransferStats(enabled=True)
    with stats.read() as transfer:
        assert stats.drain(SimpleNamespace).prefetch_pgs == []
        transfer.pages, transfer.bytes = 3, 300
    assert stats.drain(SimpleNamespace).prefetch_pgs == [3]


def test_what_nobody_reads_does_not_grow() -> None:
    stats = TransferStats(enabled=True)
    for _ in range(STATS_TRANSFERS_COUNT + 10):
        with stats.write() as transfer:
            transfer.pages, transfer.bytes = 1, 1
    assert len(stats.drain(SimpleNamespace).backup_pgs) == STATS_TRANSFERS_COUNT


def test_nothing_is_kept_when_disabled_or_when_sglang_has_no_such_class() -> None:
    assert TransferStats(enabled=False).drain(SimpleNamespace) is None
    assert TransferStats(enabled=True).drain(None) is None
