# SPDX-License-Identifier: Apache-2.0
"""Time to the first token of a real sglang on the CPU: computed, and given by MemKV or by sglang's own files.

    PYTHON_OF_ENGINE benchmarks/memkv_benchmarks/engines/sglang_ttft.py --out build/engines --store tcp

An engine computes prompts, its device and host caches are emptied, and it gets the same prompts again. What it did not
compute then came from its storage: the tokens are counted, and the answers compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

os.environ["OMP_NUM_THREADS"] = "1"  # torch's threads fight over a small machine
sys.path.append(str(Path(__file__).parents[2]))
sys.path.extend(str(Path(__file__).parents[3] / "integration-tests" / name) for name in ("rig", "sglang"))

from memkv_rig.cluster import Cluster
from sglang_rig.checkpoint import prompt, write_checkpoint
from sglang_rig.engine import EngineProcess, Generation, engine_arguments

from memkv_benchmarks.engines.results import Curve, save

LENGTHS: Final = (512, 1024, 2048, 4096)
MODEL: Final = {"hidden": 512, "layers": 8, "heads": 8, "context": 8192}
STORES: Final = {"tcp": "MemKV tcp", "shm": "MemKV shm", "file": "sglang's files"}
_WARM_TOKENS: Final = 64  # shorter than anything sglang asks its storage for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/engines"))
    parser.add_argument("--store", action="append", choices=list(STORES))
    parser.add_argument("--length", action="append", type=int, help=f"tokens of a prompt. Default: {LENGTHS}")
    parser.add_argument("--prompts", type=int, default=3, help="prompts of each length")
    given = parser.parse_args()
    about = {
        "title": "sglang on the CPU",
        "versions": f"sglang {importlib.metadata.version('sglang')}, llama of {MODEL['layers']} layers and "
        f"{MODEL['hidden']} dimensions, float16, one torch thread",
        "command": "nox -s bench-engines -- --part sglang",
    }
    lengths = given.length or list(LENGTHS)
    for store in given.store or list(STORES):
        computed, loaded = Curve(f"computed ({STORES[store]} beneath)"), Curve(STORES[store])
        with tempfile.TemporaryDirectory(prefix="memkv-engines-") as folder:
            try:
                measure(store, Path(folder), lengths, given.prompts, computed, loaded)
            except RuntimeError as error:
                loaded.note = f"not measured: {str(error).splitlines()[-1][:300]}"
                print(error, file=sys.stderr)
        save(given.out / "sglang.json", about, [computed, loaded])
        for curve in (computed, loaded):
            print(curve.name, curve.note, [f"{x}: {1e3 * y:.0f} ms" for x, y in curve.points()], flush=True)


def measure(store: str, folder: Path, lengths: list[int], prompts: int, computed: Curve, loaded: Curve) -> None:
    """One engine on one store. Raises RuntimeError where it fails, or is given too little by the store."""
    model = write_checkpoint(folder / "model", **MODEL)
    cluster = None if store == "file" else Cluster(folder / "cluster", capacity="4GiB")
    try:
        engine = EngineProcess(_arguments(store, model), _environment(store, folder, cluster), folder / "log")
        try:
            _measure(engine, lengths, prompts, computed, loaded)
        finally:
            engine.stop()
    finally:
        if cluster is not None:
            cluster.down()


def _measure(engine: EngineProcess, lengths: list[int], prompts: int, computed: Curve, loaded: Curve) -> None:
    engine.generate(prompt(999, _WARM_TOKENS), new_tokens=2)
    for length in lengths:
        numbers = range(1000 * length, 1000 * length + prompts)
        first = [engine.generate(prompt(number, length), new_tokens=4) for number in numbers]
        engine.flush()
        engine.generate(prompt(998, _WARM_TOKENS), new_tokens=2)
        second = [engine.generate(prompt(number, length), new_tokens=4) for number in numbers]
        engine.flush()
        for before, after in zip(first, second):
            _check(before, after, length)
        computed.samples[length] = [each.first_token_s for each in first]
        loaded.samples[length] = [each.first_token_s for each in second]
        loaded.note = f"{sum(each.from_storage for each in second)} of {length * prompts} tokens from the store"


def _check(before: Generation, after: Generation, length: int) -> None:
    if before.cached_tokens:
        raise RuntimeError(f"{before.cached_tokens} tokens of a new prompt were cached")
    if after.from_storage < 0.9 * length:
        raise RuntimeError(f"only {after.from_storage} of {length} tokens came from the store")
    if after.output_ids != before.output_ids:
        raise RuntimeError("the answers differ")


def _arguments(store: str, model: Path) -> dict[str, Any]:
    changed: dict[str, Any] = {"max_total_tokens": 16384}
    if store == "file":
        changed |= {"hicache_storage_backend": "file", "hicache_storage_backend_extra_config": "{}"}
    extra = {"tcp": {"transport": "tcp"}, "shm": {"transport": "shm", "allocator": "shm"}}.get(store, {})
    return engine_arguments(model, extra, **changed)


def _environment(store: str, folder: Path, cluster: Cluster | None) -> dict[str, str]:
    if cluster is not None:
        return cluster.env
    files = folder / "files"
    files.mkdir()
    return {"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(files)}


if __name__ == "__main__":
    main()
