# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memkv_sglang import _compat


def pool(dtype: str, device_dtype: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(dtype=dtype, device_pool=SimpleNamespace(dtype=device_dtype))


@pytest.mark.parametrize(
    ("made", "args", "option", "expected"),
    [
        (pool("torch.bfloat16"), None, None, ("bfloat16", True)),
        (pool("torch.float16"), SimpleNamespace(kv_cache_dtype="auto"), None, ("float16", True)),
        (pool("torch.uint8"), SimpleNamespace(kv_cache_dtype="fp8_e5m2"), None, ("uint8:fp8_e5m2:cuda", True)),
        (pool("torch.uint8"), SimpleNamespace(kv_cache_dtype="fp8_e4m3"), None, ("uint8:fp8_e4m3:cuda", True)),
        (pool("torch.uint8", "torch.float8_e5m2"), None, None, ("uint8:float8_e5m2:cuda", True)),
        (pool("torch.uint8"), SimpleNamespace(kv_cache_dtype="auto"), None, ("uint8:auto:cuda", True)),
        (pool("torch.uint8"), None, None, ("uint8:auto:cuda", False)),
        (pool("torch.uint8"), None, "fp8_e5m2", ("uint8:fp8_e5m2", True)),
        (pool("torch.bfloat16"), None, "fp8_e5m2", ("bfloat16:fp8_e5m2", True)),
        (pool("torch.float8_e4m3fn"), None, None, ("float8_e4m3fn", True)),
    ],
)
def test_the_dtype_that_the_model_means(made: Any, args: Any, option: str | None, expected: tuple[str, bool]) -> None:
    assert _compat.logical_dtype(made, args, option) == expected


def test_settings_hold_what_changes_the_kv_and_nothing_that_says_nothing() -> None:
    args = SimpleNamespace(
        json_model_override_args="{}", quantization=None, weight_version="default", load_format="auto", port=30000
    )
    assert _compat.model_settings(args) == {}
    args.json_model_override_args, args.quantization = '{"rope_theta": 1}', "fp8"
    assert _compat.model_settings(args) == {"json_model_override_args": '{"rope_theta": 1}', "quantization": "fp8"}
    assert _compat.model_settings(SimpleNamespace(load_format="dummy", random_seed=7)) == {"dummy_weights_seed": 7}
    assert _compat.model_settings(None) == {}


@pytest.mark.parametrize(
    "listed",
    [
        ["a=/l/a", "b=/l/b"],
        {"a": "/l/a", "b": "/l/b"},
        [SimpleNamespace(lora_name="a", lora_path="/l/a"), SimpleNamespace(lora_name="b", lora_path="/l/b")],
        [{"lora_name": "a", "lora_path": "/l/a"}, {"lora_name": "b", "lora_path": "/l/b"}],
    ],
)
def test_lora_adapters_in_every_form_sglang_has(listed: Any) -> None:
    assert _compat.lora_folders(SimpleNamespace(lora_paths=listed)) == {"a": "/l/a", "b": "/l/b"}
    assert _compat.lora_folders(None) == {}


def test_a_checkpoint_is_a_folder_or_nothing(tmp_path: Path) -> None:
    assert _compat.model_folder(str(tmp_path), None) == tmp_path
    assert _compat.model_folder(str(tmp_path / "absent"), None) is None
    assert _compat.model_folder("", None) is None
    assert _compat.model_folder(None, None) is None


def test_outside_an_engine_there_are_no_arguments() -> None:
    assert _compat.server_args() is None
    assert _compat.argument(None, "kv_cache_dtype") is None
