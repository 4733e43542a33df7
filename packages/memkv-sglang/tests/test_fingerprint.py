# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkv_sglang import limits
from memkv_sglang.fingerprint import weights_fingerprint


def checkpoint(folder: Path, *, seed: int = 0, tensors: int = 4, rows: int = 512, config: Any = None) -> Path:
    """A safetensors checkpoint: the same header for every seed, other bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama", "hidden_size": rows}))
    size = 2 * rows
    header = {
        f"layer.{index}": {"dtype": "BF16", "shape": [rows], "data_offsets": [index * size, (index + 1) * size]}
        for index in range(tensors)
    }
    text = json.dumps(header).encode()
    data = np.random.default_rng(seed).integers(0, 256, tensors * size, dtype=np.uint8).tobytes()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


@pytest.fixture(params=["whole", "sampled"])
def reading(request: Any, monkeypatch: Any) -> str:
    """Small checkpoints are read whole; a lower bound makes the sampling of large ones happen here."""
    if request.param == "sampled":
        monkeypatch.setattr(limits, "FINGERPRINT_WHOLE_BYTES_MAX", 1024)
    return str(request.param)


def test_a_copy_elsewhere_and_later_is_the_same(tmp_path: Any, reading: str) -> None:
    one = checkpoint(tmp_path / "a" / "model")
    other = shutil.copytree(one, tmp_path / "b" / "renamed")
    os.utime(other / "model.safetensors", (1, 1))
    (other / "README.md").write_text("not weights")
    assert weights_fingerprint(one) == weights_fingerprint(other)
    assert len(weights_fingerprint(one) or "") == 32


def test_a_link_to_the_file_is_the_same(tmp_path: Any, reading: str) -> None:
    one = checkpoint(tmp_path / "a")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for entry in one.iterdir():
        (snapshot / entry.name).symlink_to(entry)
    assert weights_fingerprint(one) == weights_fingerprint(snapshot)


def test_a_fine_tune_with_equal_headers_and_sizes_is_another(tmp_path: Any, reading: str) -> None:
    one, other = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b", seed=1)
    sizes = {folder: (folder / "model.safetensors").stat().st_size for folder in (one, other)}
    assert sizes[one] == sizes[other]
    assert weights_fingerprint(one) != weights_fingerprint(other)


def test_one_changed_tensor_is_another(tmp_path: Any, reading: str) -> None:
    one = checkpoint(tmp_path / "a")
    other = shutil.copytree(one, tmp_path / "b")
    path = other / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1024:] = bytes(1024)  # the last of four tensors
    path.write_bytes(data)
    assert weights_fingerprint(one) != weights_fingerprint(other)


@pytest.mark.parametrize(
    "change", [{"config": {"rope_theta": 1.0}}, {"tensors": 3}, {"rows": 256}], ids=["config", "tensors", "shape"]
)
def test_another_config_or_shape_is_another(tmp_path: Any, change: Any) -> None:
    assert weights_fingerprint(checkpoint(tmp_path / "a")) != weights_fingerprint(checkpoint(tmp_path / "b", **change))


def test_no_checkpoint_no_fingerprint(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert weights_fingerprint(tmp_path) is None
    assert weights_fingerprint(tmp_path / "absent") is None


def test_one_file_and_other_kinds(tmp_path: Any) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    assert weights_fingerprint(tmp_path / "model.gguf") == weights_fingerprint(tmp_path)


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 8, (10**9).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_a_file_that_is_no_safetensors_is_sampled_all_the_same(tmp_path: Any, monkeypatch: Any, header: bytes) -> None:
    monkeypatch.setattr(limits, "FINGERPRINT_WHOLE_BYTES_MAX", 0)
    (tmp_path / "model.safetensors").write_bytes(header)
    assert weights_fingerprint(tmp_path)


def test_a_large_checkpoint_costs_little(tmp_path: Any) -> None:
    folder = tmp_path / "large"
    checkpoint(folder)
    for shard in range(4):
        with (folder / f"model-{shard}.safetensors").open("wb") as file:
            file.truncate(20 * 1024**3)  # sparse: 80 GiB that take no room
    begun = time.monotonic()
    assert weights_fingerprint(folder)
    assert time.monotonic() - begun < 30
