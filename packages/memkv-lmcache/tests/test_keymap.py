# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from lmcache_fakes import CacheEngineKey, LayerCacheEngineKey, ObjectKey

from memkv_core.limits import KEY_BYTES_MAX
from memkv_lmcache.keymap import chunk_name, object_name


def test_names_are_stable_across_versions() -> None:
    # What is stored is found again only while these hold; a change of them is a change of the format.
    # The digests were made with sha256sum, of ["mp","org/model",16777216,0,"t","0123456789abcdef"] and the like.
    assert object_name(ObjectKey(b"\xab" * 32, cache_salt="t"), "0123456789abcdef") == (
        "ab" * 32 + "_" + "ed1a58a7c9e668b5a26860685641954b"
    )
    assert chunk_name(CacheEngineKey(-0x45D7)) == "-45d7_4a6cf3bcec04ba6b19df996461637c23"


def test_names_are_short_whatever_the_model_is_called() -> None:
    key = ObjectKey(b"\1" * 32, model_name="/very/long/" * 400, cache_salt="ü" * 128)
    assert len(object_name(key, "0" * 16).encode()) < KEY_BYTES_MAX


@pytest.mark.parametrize(
    "other",
    [
        CacheEngineKey(8),
        CacheEngineKey(-7),
        CacheEngineKey(b"\7"),
        CacheEngineKey(7, model_name="org/other"),
        CacheEngineKey(7, world_size=2),
        CacheEngineKey(7, worker_id=1),
        CacheEngineKey(7, dtype="torch.float16"),
        CacheEngineKey(7, tags=(("user", "a"),)),
        CacheEngineKey(7, tags=(("user", "b"),)),
        LayerCacheEngineKey(7, layer_id=0),
        LayerCacheEngineKey(7, layer_id=1),
    ],
)
def test_chunks_that_differ_in_anything_have_other_names(other: Any) -> None:
    assert chunk_name(other) != chunk_name(CacheEngineKey(7))


def test_a_tag_cannot_pose_as_a_layer() -> None:
    tagged = CacheEngineKey(7, tags=(("3", ""),))
    assert chunk_name(tagged) != chunk_name(LayerCacheEngineKey(7, layer_id=3))


def test_the_order_of_tags_does_not_matter() -> None:
    one = CacheEngineKey(7, tags=(("a", "1"), ("b", "2")))
    two = CacheEngineKey(7, tags=(("b", "2"), ("a", "1")))
    assert chunk_name(one) == chunk_name(two)


def test_ranks_of_an_mla_model_share() -> None:
    ranks = [CacheEngineKey(7, world_size=8, worker_id=rank) for rank in range(8)]
    assert len({chunk_name(key, shared_rank=0) for key in ranks}) == 1
    assert len({chunk_name(key) for key in ranks}) == 8
