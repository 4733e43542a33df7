# SPDX-License-Identifier: Apache-2.0
"""A digest of a model's weights, cheap enough for every start: seconds at worst, whatever the model's size.

sglang's page keys know the token ids and nothing of the weights that made the KV, so two fine-tunes served under one
name would read each other's pages. Headers alone do not tell fine-tunes apart (same names, shapes and sizes), so bytes
of the tensors are sampled too: the middle of up to 2,048 tensors and 2,048 evenly spaced places of 256 bytes. A
checkpoint of at most 64 MiB is read whole. Paths and times do not enter: a copy elsewhere has the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memkv_sglang import limits

# What decides how the weights are read, besides the weights. Tokenizers do not: keys are made of token ids.
_METADATA = ("config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json", "adapter_config.json")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")  # the first kind that is there counts


def weights_fingerprint(path: str | os.PathLike[str]) -> str | None:
    """32 hex digits for the checkpoint in a folder (or one weights file); None where there is none.

    Raises OSError where a file is there and cannot be read.
    """
    root = Path(path)
    files = [root] if root.is_file() else weight_files(root)
    if not files:
        return None
    digest = hashlib.sha256(b"memkv-weights/1")
    folder = root.parent if root.is_file() else root
    for name in _METADATA:
        if (folder / name).is_file():
            _update(digest, name.encode(), (folder / name).read_bytes())
    sizes = [file.stat().st_size for file in files]
    total = sum(sizes)
    for file, size in zip(files, sizes, strict=True):
        _update(digest, file.name.encode(), str(size).encode())
        with file.open("rb") as source:
            if total <= limits.FINGERPRINT_WHOLE_BYTES_MAX:
                _update(digest, source.read())
            else:
                share = max(2, limits.FINGERPRINT_SAMPLE_COUNT * size // total)
                for offset in sample_offsets(source.fileno(), file.suffix, size, share, digest):
                    _update(digest, os.pread(source.fileno(), limits.FINGERPRINT_SAMPLE_BYTES, offset))
    return digest.hexdigest()[:32]


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder by name; of the first kind in _WEIGHTS that it holds."""
    if not folder.is_dir():
        return []
    names = sorted(entry for entry in folder.iterdir() if entry.is_file())
    for kind in _WEIGHTS:
        found = [entry for entry in names if entry.suffix == kind]
        if found:
            return found
    return []


def sample_offsets(fd: int, kind: str, size: int, count: int, digest: Any) -> list[int]:
    """Where to sample one file: ``count`` places at most, the same for equal files; a header goes into ``digest``."""
    last = max(0, size - limits.FINGERPRINT_SAMPLE_BYTES)
    even = max(1, count // 2)
    places = {last * index // even for index in range(even)} | {last}
    if kind == ".safetensors":
        length = int.from_bytes(os.pread(fd, 8, 0), "little")
        if 0 < length <= min(size - 8, limits.FINGERPRINT_HEADER_BYTES_MAX):
            header = os.pread(fd, length, 8)
            _update(digest, header)
            places.update(_tensor_middles(header, 8 + length, count - even))
    return sorted(min(place, last) for place in places)


def _tensor_middles(header: bytes, data_start: int, count: int) -> Iterable[int]:
    """The middle of ``count`` tensors, evenly chosen in the order of their offsets. A malformed header has none."""
    try:
        entries = json.loads(header)
        spans = sorted(tuple(entry["data_offsets"]) for name, entry in entries.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    step = max(1, -(-len(spans) // max(1, count)))
    return [data_start + (begin + end) // 2 for begin, end in spans[::step]]


def _update(digest: Any, *pieces: bytes) -> None:
    """Adds pieces with their lengths, so that no two sequences of pieces read alike."""
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
