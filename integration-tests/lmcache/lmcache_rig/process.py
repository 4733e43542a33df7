# SPDX-License-Identifier: Apache-2.0
"""``python -m lmcache_rig.process store|retrieve YAML TOKENS``: one engine in a process of its own; says JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from lmcache_rig import paged
from lmcache_rig.engine import Engine


def main(what: str, yaml: str, count: int) -> None:
    tokens = torch.randint(0, 30_000, (count,), generator=torch.Generator().manual_seed(1))
    slots = torch.arange(count)
    engine = Engine(Path(yaml), "engine")
    found = engine.lookup(tokens)
    if what == "store":
        caches = paged.random_caches(3)
        engine.store(tokens, caches, slots)
        engine.settle()
    else:
        caches = paged.empty_caches()
        found = engine.retrieve(tokens, caches, slots)
    engine.close()
    taken = b"".join(cache[:, slots].contiguous().view(torch.int16).numpy().tobytes() for cache in caches)
    print(json.dumps({"found": found, "digest": hashlib.sha256(taken).hexdigest()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
