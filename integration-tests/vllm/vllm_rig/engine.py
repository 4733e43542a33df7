# SPDX-License-Identifier: Apache-2.0
"""Runs ``generate`` in a process of its own, as a replica of vLLM that has just been started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkv_rig.cluster import wait_until

from vllm_rig.generate import SAID

FOLDER = Path(__file__).parents[1]
LIMIT_S = 400.0


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    logprobs: list[float]
    cached: int


def generate(
    model: Path,
    connector: dict[str, Any],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    then: Callable[[], None] | None = None,
) -> Answer:
    """The answer of a fresh vLLM, which ends after ``then``; ``log``: its output. Raises RuntimeError if it fails."""
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(FOLDER),
        **(env or {}),
    }
    command = [sys.executable, "-m", "vllm_rig.generate", str(model), json.dumps(connector)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        done = wait_until(lambda: process.poll() is not None or "\n" in log.read_text().partition(SAID)[2], LIMIT_S)
        said = log.read_text().partition(SAID)[2].partition("\n")[0]
        if not done or not said:
            raise RuntimeError(log.read_text()[-6000:])
        if then is not None:
            then()
        process.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # vLLM's core and workers too
        process.wait()
    return Answer(**json.loads(said))
