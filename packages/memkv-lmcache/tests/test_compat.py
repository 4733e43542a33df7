# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
from typing import Any

import pytest

from memkv_lmcache import _compat, standins
from memkv_lmcache.layout import Layout


def test_nothing_of_lmcache_is_needed_to_import() -> None:
    assert _compat.find(("no.such.module", "x"), ("json", "no_such_name")) is None
    assert _compat.find(("no.such.module", "x"), ("json", "loads")) is not None
    assert _compat.pipeline_rank() == 0


@pytest.mark.skipif(_compat.version() is not None, reason="LMCache is installed")
def test_the_stand_ins_are_used_without_lmcache() -> None:
    assert _compat.L2AdapterInterface is standins.L2AdapterInterface
    assert _compat.remote_memory_tags() is None
    assert _compat.torch_layout(Layout(((2, 3),), ("bfloat16",), "KV_2LTD")) == (
        [(2, 3)],
        ["torch.bfloat16"],
        "KV_2LTD",
    )


def test_the_stand_ins_keep_the_books() -> None:
    adapter: Any = standins.L2AdapterInterface(10)
    adapter._notify_keys_stored(["a"], [4])
    adapter._notify_keys_deleted(["a"], [1])
    assert adapter.get_usage() == standins.AdapterUsage(3, 10)
    assert standins.L2StoreResult(False, 3).bytes_transferred() == 0
    bitmap = standins.Bitmap(3)
    bitmap.batched_set([0, 2])
    assert (bitmap.popcount(), bitmap.test(1)) == (2, False)
    assert standins.ConnectorAdapter("x://").can_parse("x://y")
    assert "dst_device" in inspect.signature(standins.StoragePluginInterface.__init__).parameters
