# SPDX-License-Identifier: Apache-2.0
"""Quotas and TTLs at a start: what of the records found belongs into the index. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memkv_server.engine.account import Account
from memkv_server.engine.age import AgeClock
from memkv_server.engine.index import Index
from memkv_server.engine.segment import UNIT_SHIFT


def within_bounds(index: Index, table: npt.NDArray[np.void], clock: AgeClock) -> npt.NDArray[np.bool_]:
    """Which of the live records (footer entries) their namespaces may keep; notes the ages of these.

    A namespace keeps what is younger than its TTL, and of that the newest up to its quota.
    """
    kept = np.ones(len(table), dtype=bool)
    bounded = [account for account in index.usage.values() if account.ages is not None]
    if not bounded:
        return kept
    order = np.lexsort((table["sequence"], table["namespace_hash"]))
    hashes = table["namespace_hash"][order]
    for account in bounded:
        first, end = (
            np.searchsorted(hashes, np.uint64(account.hash), "left"),
            np.searchsorted(hashes, np.uint64(account.hash), "right"),
        )
        own = order[first:end]
        kept[own] = False
        kept[_keep(account, own, table, clock)] = True
    return kept


def _keep(
    account: Account, own: npt.NDArray[np.intp], table: npt.NDArray[np.void], clock: AgeClock
) -> npt.NDArray[np.intp]:
    """Of ``own``, positions of one namespace's records in the order in which they were written, those that stay."""
    assert account.ages is not None
    seconds = clock.written_at(table["sequence"][own])
    if account.ttl_s is not None:
        expired = int(np.searchsorted(seconds, clock.now() - account.ttl_s, side="right"))
        account.expired_records += expired
        own, seconds = own[expired:], seconds[expired:]
    if account.quota_bytes is not None:
        held_bytes = np.cumsum(table["length"][own][::-1].astype(np.uint64) << np.uint64(UNIT_SHIFT))
        over = len(own) - int(np.searchsorted(held_bytes, np.uint64(account.quota_bytes), side="right"))
        account.over_quota_records += over
        own, seconds = own[over:], seconds[over:]
    account.ages.update(zip(table["key_hash"][own].tolist(), seconds.tolist(), strict=True))
    return own
