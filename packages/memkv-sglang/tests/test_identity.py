# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from sglang_fakes import MambaPoolHost, MHATokenToKVPoolHost, MLATokenToKVPoolHost

from memkv_core.namespaces import canonical_identity, choose_namespace
from memkv_sglang.identity import is_replicated, plain, pool_identity
from memkv_sglang.keymap import Ranks


def identity(pool: Any = None, **changed: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": "org/tiny",
        "tag": None,
        "weights": "ab" * 16,
        "settings": {},
        "kv_dtype": "bfloat16",
        "pool_name": "kv",
        "pool": pool or MHATokenToKVPoolHost(layout="page_first", layers=2, page_size=4),
        "page_bytes": (64, 64),
        "page_order": "flat",
        "ranks": Ranks(),
        "replicated": False,
    }
    return pool_identity(**{**fields, **changed})


def namespace(pool: Any = None, **changed: Any) -> str:
    return choose_namespace(None, canonical_identity(identity(pool, **changed)))


CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model": "org/tiny2"},
    "tag": {"tag": "v2"},
    "weights": {"weights": "cd" * 16},
    "unknown weights": {"weights": None},
    "settings": {"settings": {"quantization": "fp8"}},
    "fp16 of the same size": {"kv_dtype": "float16"},
    "fp8 e4m3": {"kv_dtype": "uint8:fp8_e4m3:cuda"},
    "fp8 e5m2": {"kv_dtype": "uint8:fp8_e5m2:cuda"},
    "fp8 e4m3 on hip": {"kv_dtype": "uint8:fp8_e4m3:hip"},
    "pool name": {"pool_name": "swa"},
    "page bytes": {"page_bytes": (32, 96)},
    "page order": {"page_order": "segments"},
    "tp rank": {"ranks": Ranks(tp=(1, 2))},
    "tp size": {"ranks": Ranks(tp=(0, 2))},
    "pp rank": {"ranks": Ranks(pp=(1, 2))},
    "pp size": {"ranks": Ranks(pp=(0, 2))},
    "cp": {"ranks": Ranks(cp=(0, 2))},
    "dcp": {"ranks": Ranks(dcp=(0, 2))},
    "rank-free": {"replicated": True},
}
POOLS: dict[str, Any] = {
    "page_first_direct, of the same size": MHATokenToKVPoolHost(layout="page_first_direct", layers=2, page_size=4),
    "layer_first, of the same size": MHATokenToKVPoolHost(layout="layer_first", layers=2, page_size=4),
    "page_head, of the same size": MHATokenToKVPoolHost(layout="page_head", layers=2, page_size=4),
    "page size": MHATokenToKVPoolHost(layout="page_first", layers=2, page_size=8),
    "layers": MHATokenToKVPoolHost(layout="page_first", layers=3, page_size=4),
    "heads for dims": MHATokenToKVPoolHost(layout="page_first", layers=2, page_size=4, heads=4, dim=2),
    "class": MLATokenToKVPoolHost(layout="page_first", layers=2, page_size=4),
}


def test_a_difference_in_any_field_is_another_namespace() -> None:
    names = {"as it was": namespace()}
    names |= {label: namespace(**change) for label, change in CHANGES.items()}
    names |= {label: namespace(pool) for label, pool in POOLS.items()}
    assert len(set(names.values())) == len(names), names


@pytest.mark.parametrize(("start", "end"), [(2, 4), (0, 4)])
def test_layers_of_another_stage_are_another_namespace(start: Any, end: Any) -> None:
    pool = MHATokenToKVPoolHost(layout="page_first", layers=2, page_size=4)
    pool.start_layer, pool.end_layer = start, end
    assert namespace(pool) != namespace()


def test_the_number_of_pages_a_pool_holds_is_no_part_of_it() -> None:
    larger = MHATokenToKVPoolHost(layout="page_first", layers=2, page_size=4, page_count=64)
    assert namespace(larger) == namespace()


def test_an_identity_is_json_and_small() -> None:
    pool: Any = MambaPoolHost()
    pool.conv_state_shapes = [(3, 4)]
    assert len(canonical_identity(identity(pool, settings={"dtype": object()}))) < 4096
    assert json.loads(json.dumps(plain({"a": (1, [2]), 3: None}))) == {"a": [1, [2]], "3": None}


def test_shared_heads_of_two_sizes_are_one_namespace() -> None:
    four = MHATokenToKVPoolHost(layout="page_head", layers=2, page_size=4, heads=2)
    two = MHATokenToKVPoolHost(layout="page_head", layers=2, page_size=4, heads=4)
    names = {
        namespace(four, ranks=Ranks(tp=(3, 4)), shared_tp_size=4),
        namespace(four, ranks=Ranks(tp=(0, 4)), shared_tp_size=4),
        namespace(two, ranks=Ranks(tp=(1, 2)), shared_tp_size=4),
    }
    assert len(names) == 1
    assert namespace(two, ranks=Ranks(tp=(1, 2))) not in names


@pytest.mark.parametrize(
    ("name", "pool", "is_mla_model", "expected"),
    [
        ("kv", MHATokenToKVPoolHost, False, False),
        ("kv", MLATokenToKVPoolHost, True, True),
        ("indexer", MLATokenToKVPoolHost, True, True),
        ("deepseek_v4_c4", MLATokenToKVPoolHost, True, True),
        ("mamba", MambaPoolHost, True, False),
        ("draft", MLATokenToKVPoolHost, True, True),
        ("draft", MHATokenToKVPoolHost, True, False),
        ("swa", MHATokenToKVPoolHost, False, False),
        ("a_pool_of_tomorrow", MLATokenToKVPoolHost, True, False),
    ],
)
def test_only_what_every_rank_holds_alike_is_kept_without_the_rank(
    name: Any, pool: Any, is_mla_model: Any, expected: Any
) -> None:
    made = pool() if pool is MambaPoolHost else pool(layout="page_first", layers=1, page_size=2)
    assert is_replicated(name, made, is_mla_model=is_mla_model) is expected
