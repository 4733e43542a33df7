# SPDX-License-Identifier: Apache-2.0
"""MemKV's client library: a durable, shared tier for the KV cache of LLM inference engines.

::

    from memkv_core import Client, ClientConfig
    client = Client(ClientConfig.load())

Names are loaded at first use, so that ``import memkv_core`` costs nothing to a CLI or an adapter that needs
one part.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memkv_core._version import __version__

if TYPE_CHECKING:
    from memkv_core import errors
    from memkv_core.buffers import Region
    from memkv_core.client import Client
    from memkv_core.config import ClientConfig
    from memkv_core.stats import ClientStats

__all__ = ["Client", "ClientConfig", "ClientStats", "Region", "__version__", "errors"]

_HOME = {
    "Client": "memkv_core.client",
    "ClientConfig": "memkv_core.config",
    "ClientStats": "memkv_core.stats",
    "Region": "memkv_core.buffers",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("memkv_core.errors")
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'memkv_core' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next use is a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
