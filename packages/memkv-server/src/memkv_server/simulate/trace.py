# SPDX-License-Identifier: Apache-2.0
"""Traces of block references, in the format of Mooncake (kvcache-ai/Mooncake, FAST25-release/traces).

JSON lines, a request each; of its members only ``hash_ids`` is used, the ids of the blocks of the prompt in order::

    {"timestamp": 0, "input_length": 2290, "output_length": 316, "hash_ids": [0, 42, 43, 44, 45]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from memkv_core.errors import ConfigError

_REMEDY = 'each line holds a request as JSON: {"hash_ids": [ids of its blocks, in order]}'


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival, each a sequence of distinct block ids."""

    name: str
    requests: Sequence[Sequence[int]]
    reference_count: int
    distinct_count: int

    @classmethod
    def of(cls, name: str, requests: Sequence[Sequence[int]]) -> Trace:
        """A trace of these requests; an id that a request repeats counts once."""
        distinct = [tuple(dict.fromkeys(request)) for request in requests]
        return cls(name, distinct, sum(map(len, distinct)), len(set(chain.from_iterable(distinct))))


def read_trace(path: Path) -> Trace:
    """The trace in a file. ConfigError names the line that is none; OSError where the file cannot be read."""
    requests: list[list[int]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                request = json.loads(line)["hash_ids"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ConfigError(f"{path}:{number}: this is no request", remedy=_REMEDY) from None
            if not isinstance(request, list) or not all(type(block) is int for block in request):
                raise ConfigError(f"{path}:{number}: hash_ids is no list of integers", remedy=_REMEDY)
            requests.append(request)
    trace = Trace.of(path.name, requests)
    if trace.reference_count == 0:
        raise ConfigError(f"{path}: the trace refers to no block", remedy=_REMEDY)
    return trace
