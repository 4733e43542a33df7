# SPDX-License-Identifier: Apache-2.0
"""Traces made by rule and seed, unlike each other: what is good on one recorded trace is tried on these as well."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Final

import numpy as np

from memkv_core.errors import ConfigError
from memkv_server.simulate.trace import Trace

Requests = list[list[int]]
_FRESH: Final = 1_000_000  # ids from here on stand for blocks that are seen for the first time


def zipf(
    seed: int = 1, references: int = 120_000, objects: int = 20_000, exponent: float = 0.9, length: int = 1
) -> Requests:
    """Objects of ``length`` blocks, always read whole, their popularity by Zipf's law: no recency in it at all."""
    weights = 1 / np.arange(1, objects + 1) ** exponent
    drawn = np.random.default_rng(seed).choice(objects, size=references // length, p=weights / weights.sum())
    return [[number * length + place for place in range(length)] for number in drawn.tolist()]


def documents(seed: int = 1) -> Requests:
    """Zipf over documents of 8 blocks."""
    return zipf(seed, objects=2_500, length=8)


def shift(seed: int = 2) -> Requests:
    """Zipf, and halfway another set of objects."""
    before, after = zipf(seed, 60_000), zipf(seed + 1, 60_000)
    return before + [[_FRESH + block for block in request] for request in after]


def scans(seed: int = 3, rounds: int = 6_000) -> Requests:
    """Hot single blocks, a loop over 6,000 blocks in runs of 8, and runs of blocks that are never seen again."""
    draw = random.Random(seed)
    hot = iter(zipf(seed, references=8 * rounds, objects=5_000))
    requests: Requests = []
    looped = fresh = 0
    for _ in range(rounds):
        requests += [next(hot) for _ in range(8)]
        if draw.random() < 0.5:
            start = _FRESH + looped % 750 * 8
            requests.append(list(range(start, start + 8)))
            looped += 1
        if draw.random() < 0.5:
            requests.append(list(range(2 * _FRESH + fresh, 2 * _FRESH + fresh + 8)))
            fresh += 8
    return requests


def conversations(seed: int = 4, count: int = 4_000, turns: float = 5.0, think: float = 600.0) -> Requests:
    """Conversations that start all the time, on 20 system prompts of 6 blocks, some much more popular than others.

    Each turn repeats all that was said and adds 1 to 16 blocks; ``think`` is the mean time to the next turn, in
    units in which a conversation starts every 3. The last block of a request is partial: it never comes again.
    """
    draw = random.Random(seed)
    due: list[tuple[float, int]] = []
    said: dict[int, list[int]] = {}
    now = 0.0
    for conversation in range(count):
        now += draw.expovariate(1 / 3)
        prompt = min(19, int(draw.paretovariate(1)) - 1)
        said[conversation] = list(range(prompt * 6, prompt * 6 + 6))
        heapq.heappush(due, (now, conversation))
    requests: Requests = []
    fresh = _FRESH
    while due:
        when, conversation = heapq.heappop(due)
        added = draw.randint(1, 16)
        said[conversation] += range(fresh, fresh + added)
        fresh += added + 1
        requests.append([*said[conversation], fresh - 1])
        if draw.random() < 1 - 1 / turns:
            heapq.heappush(due, (when + draw.expovariate(1 / think), conversation))
        else:
            del said[conversation]
    return requests


def slow_conversations(seed: int = 4) -> Requests:
    """Shorter conversations of people who take their time."""
    return conversations(seed, turns=3.0, think=2_500.0)


SYNTHETIC: Final[dict[str, Callable[[], Requests]]] = {
    function.__name__.replace("_", "-"): function
    for function in (zipf, documents, shift, scans, conversations, slow_conversations)
}


def synthetic_trace(name: str) -> Trace:
    """One of ``SYNTHETIC``. ConfigError for another name."""
    if name not in SYNTHETIC:
        raise ConfigError(f"no synthetic trace is called {name!r}", remedy=f"use {', '.join(SYNTHETIC)}")
    return Trace.of(name, SYNTHETIC[name]())
