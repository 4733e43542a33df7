# SPDX-License-Identifier: Apache-2.0
"""Starts engines as processes of their own and talks to them."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sglang_rig.checkpoint import PAGE_TOKENS

START_S = 240.0
ANSWER_S = 120.0

GUIDE_CONFIG = {
    "backend_name": "memkv", "module_path": "memkv_sglang.backend", "class_name": "MemKVHiCacheStorage",
}  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """One greedy generation and where the KV of its prompt came from (counts of tokens)."""

    output_ids: list[int]
    prompt_tokens: int
    cached_tokens: int
    details: dict[str, Any]
    first_token_s: float
    elapsed_s: float

    @property
    def from_storage(self) -> int:
        return int(self.details.get("storage") or 0)


class EngineFailed(RuntimeError):
    """The engine's process ended before it answered; the message is the end of its log."""


def engine_arguments(model: Path, extra_config: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """Arguments of ``sglang.Engine`` for a small model on one CPU with HiCache on MemKV."""
    config = {**GUIDE_CONFIG, "interface_v1": 1, **extra_config}
    return {
        "model_path": str(model), "device": "cpu", "attention_backend": "torch_native", "sampling_backend": "pytorch",
        "grammar_backend": "none", "skip_tokenizer_init": True, "disable_overlap_schedule": True,
        "disable_cuda_graph": True, "max_total_tokens": 8192, "page_size": PAGE_TOKENS, "log_level": "info",
        "enable_cache_report": True, "random_seed": 7, "enable_hierarchical_cache": True, "hicache_ratio": 2.0,
        "hicache_mem_layout": "page_first", "hicache_io_backend": "kernel", "hicache_write_policy": "write_through",
        "hicache_storage_backend": "dynamic", "hicache_storage_prefetch_policy": "wait_complete",
        "hicache_storage_backend_extra_config": json.dumps(config), **changed,
    }  # fmt: skip


class EngineProcess:
    """A running engine. ``env``: added to this process's environment, MEMKV_* variables of which are dropped."""

    def __init__(self, arguments: Mapping[str, Any], env: Mapping[str, str], log: Path) -> None:
        self.log_path = log
        answers, child = os.pipe()
        command = [sys.executable, str(Path(__file__).with_name("engine_main.py")), str(child), json.dumps(arguments)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, pass_fds=[child], text=True,
                env=engine_environment(env),
            )  # fmt: skip
        os.close(child)
        self._answers = os.fdopen(answers)
        self.ready_s: float = self._answer(START_S)["ready_s"]

    def generate(self, input_ids: list[int], new_tokens: int = 8) -> Generation:
        return Generation(**self._ask({"do": "generate", "input_ids": input_ids, "new_tokens": new_tokens}))

    def flush(self) -> None:
        """Empties the engine's device and host caches; storage keeps what it has."""
        time.sleep(0.5)  # backups of the last request may be under way, and sglang refuses until they are done
        for _ in range(20):
            if self._ask({"do": "flush"})["flushed"]:
                return
            time.sleep(0.5)
        raise EngineFailed("the engine did not flush its cache")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        """Ends the engine's processes, all of them; a moment for those that end by themselves."""
        processes = _family(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        _, alive = psutil.wait_procs(processes, timeout=2)
        for process in alive:
            process.kill()
        self._process.wait()
        self._answers.close()

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer(ANSWER_S)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; raises EngineFailed where the process ends first or takes too long."""
        ready, _, _ = select.select([self._answers], [], [], timeout_s)
        line = self._answers.readline() if ready else ""
        if not line:
            self.stop()
            what = "ended" if ready else f"said nothing for {timeout_s:.0f} s"
            raise EngineFailed(f"the engine {what}; its log ends:\n{self.log()[-6000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def engine_environment(env: Mapping[str, str]) -> dict[str, str]:
    """This environment without MEMKV_*, with ``env``, and with one thread for torch."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMKV_")}
    return {**inherited, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **env}


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
