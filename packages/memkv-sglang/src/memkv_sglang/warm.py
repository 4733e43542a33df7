# SPDX-License-Identifier: Apache-2.0
"""Walks prompts through a running sglang server, so that its caches hold them before traffic comes.

sglang asks its storage about a prompt when the prompt arrives, hence a fresh server starts with an empty host cache
while the cluster is full. One token is generated for each prompt; what the cluster holds is restored on the way, the
rest is computed and, by that, stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import httpx

from memkv_sglang.prompts import Prompt


@dataclass
class WarmReport:
    """Token counts of all prompts that were walked, by where their KV came from."""

    prompt_count: int = 0
    token_count: int = 0
    restored_tokens: int = 0  # from MemKV
    cached_tokens: int = 0  # in the server's own memory already
    recomputed_tokens: int = 0
    without_details: int = 0  # answers that do not say where cached tokens came from
    failures: list[tuple[int, str]] = field(default_factory=list)  # line, reason

    def add(self, meta: dict[str, Any]) -> None:
        """Counts one answer's ``meta_info``."""
        prompt, cached = int(meta.get("prompt_tokens") or 0), int(meta.get("cached_tokens") or 0)
        details = meta.get("cached_tokens_details")
        restored = int(details.get("storage") or 0) if isinstance(details, dict) else 0
        if cached and not isinstance(details, dict):
            self.without_details += 1
        self.prompt_count += 1
        self.token_count += prompt
        self.restored_tokens += restored
        self.cached_tokens += cached - restored
        self.recomputed_tokens += prompt - cached


def warm(
    prompts: Iterable[Prompt],
    client: httpx.Client,
    *,
    concurrency: int,
    on_prompt: Callable[[WarmReport], None] = lambda report: None,
) -> WarmReport:
    """Sends every prompt, at most ``concurrency`` at once, and reports; a prompt that fails does not stop the others.

    ``client`` has the server's address as its base URL. ``on_prompt`` is called after each prompt, by this thread.
    """
    report = WarmReport()
    gate = threading.BoundedSemaphore(concurrency)
    pending: dict[Future[dict[str, Any]], Prompt] = {}

    def settle(done: Iterable[Future[dict[str, Any]]]) -> None:
        for future in done:
            prompt = pending.pop(future)
            error = future.exception()
            if isinstance(error, httpx.HTTPError | ValueError | KeyError):
                report.failures.append((prompt.line, _reason(error)))
            elif error is not None:
                raise error
            else:
                report.add(future.result())
            on_prompt(report)

    with ThreadPoolExecutor(concurrency) as pool:
        for prompt in prompts:
            if len(pending) >= concurrency:
                settle(wait(pending, return_when=FIRST_COMPLETED).done)
            pending[pool.submit(_send, client, prompt, gate)] = prompt
        while pending:
            settle(wait(pending, return_when=FIRST_COMPLETED).done)
    return report


def _send(client: httpx.Client, prompt: Prompt, gate: threading.BoundedSemaphore) -> dict[str, Any]:
    sampling = {"max_new_tokens": 1, "temperature": 0}
    with gate:
        response = client.post("/generate", json={**prompt.body, "sampling_params": sampling})
    response.raise_for_status()
    answer = response.json()
    meta: dict[str, Any] = answer["meta_info"]
    return meta


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}: {error.response.text[:200].strip()}"
    if isinstance(error, KeyError | ValueError):
        return "the answer is not one of sglang's /generate"
    return str(error) or type(error).__name__
