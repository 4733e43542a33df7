# SPDX-License-Identifier: Apache-2.0
"""Real clients that put and get until they are told to stop: two models, each in a namespace of its own."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from memkv_core import Client, ClientConfig

BLOCK_BYTES = 128 * 1024
BATCH = 16
MODELS: dict[str, dict[str, Any]] = {
    "llama-70b": {"model": "meta-llama/Llama-3.1-70B-Instruct", "dtype": "bfloat16", "layout": "page_first", "tp": 4},
    "qwen-32b": {"model": "Qwen/Qwen3-32B", "dtype": "float8_e4m3", "layout": "layer_first", "tp": 2},
}


class Load:
    """``settings`` as for ``ClientConfig.load``. Use it as a context; ``got`` counts the blocks that came back."""

    def __init__(self, settings: Mapping[str, Any], pause_s: float = 0.05, key_count: int = 2048) -> None:
        self.got = 0
        self.stored = 0
        self.failure: BaseException | None = None
        self._pause_s = pause_s
        self._key_count = key_count
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(dict(settings), name, identity))
            for name, identity in MODELS.items()
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _work(self, settings: dict[str, Any], name: str, identity: dict[str, Any]) -> None:
        try:
            with Client(ClientConfig.load(**settings, namespace=name), identity=identity) as client:
                self._run(client, random.Random(name))
        except BaseException as error:  # noqa: BLE001 -- raised where the load ends
            self.failure = error

    def _run(self, client: Client, draw: random.Random) -> None:
        """Prefixes that are shared by many requests are asked for often: low numbers more than high ones."""
        source = bytes(draw.randbytes(BLOCK_BYTES))
        targets = [bytearray(BLOCK_BYTES) for _ in range(BATCH)]
        while not self._stop.is_set():
            keys = [b"block-%d" % int(self._key_count * draw.random() ** 2.5) for _ in range(BATCH)]
            keys = list(dict.fromkeys(keys))
            found = client.get(keys, targets[: len(keys)])
            self.got += sum(size is not None for size in found)
            missing = [key for key, size in zip(keys, found, strict=True) if size is None]
            if missing:
                self.stored += sum(client.put(missing, [source] * len(missing)))
            # As busy as a day is: more at some times than at others.
            self._stop.wait(self._pause_s * (1.2 + math.sin(time.time() / 47)))
