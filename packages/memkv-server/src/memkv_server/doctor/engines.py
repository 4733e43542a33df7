# SPDX-License-Identifier: Apache-2.0
"""The engines of this environment: is MemKV's adapter beside each, of this release, and will processes agree on hashes.

Only what is installed is looked at; no engine is imported. What an engine itself would load is the business of
``memkv-lmcache check`` and ``memkv-nixl check``.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from memkv_server import __version__
from memkv_server.doctor.finding import Finding

# the engine's distribution -> MemKV's, and how the engine is told of it
_ADAPTERS: Final = {
    "sglang": ("memkv-sglang", "--hicache-storage-backend dynamic"),
    "lmcache": ("memkv-lmcache", "`memkv-lmcache check` walks LMCache's way to it"),
    "nixl": ("memkv-nixl", "`memkv-nixl status` says whether it is linked"),
}
_HASHING: Final = ("vllm", "lmcache")

VersionOf = Callable[[str], str | None]


def installed_version(distribution: str) -> str | None:
    """The version of a distribution in this environment; None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine_engines(environ: Mapping[str, str], version_of: VersionOf = installed_version) -> Iterator[Finding]:
    """All about the engines; ``environ`` is what they would be started with."""
    found = False
    for engine, (adapter, how) in _ADAPTERS.items():
        engine_version, adapter_version = version_of(engine), version_of(adapter)
        if engine_version is None and adapter_version is None:
            continue
        found = True
        yield _pair(engine, engine_version, adapter, adapter_version, how)
    if not found:
        yield Finding("engine", "ok", "no engine in this environment")
    if any(version_of(engine) for engine in _HASHING):
        yield hash_seed(environ)


def _pair(engine: str, engine_version: str | None, adapter: str, adapter_version: str | None, how: str) -> Finding:
    if adapter_version is None:
        remedy = f"install the {adapter} wheel of this release into the engine's environment"
        return Finding("engine", "warn", f"{engine} {engine_version} without {adapter}", remedy)
    if engine_version is None:
        remedy = f"install it into the environment of {engine}"
        return Finding("engine", "warn", f"{adapter} {adapter_version}, but no {engine} beside it", remedy)
    text = f"{engine} {engine_version} with {adapter} {adapter_version}"
    if adapter_version != __version__:
        return Finding("engine", "fail", f"{text}, beside MemKV {__version__}", "install all wheels of one release")
    return Finding("engine", "ok", f"{text}; {how}")


def hash_seed(environ: Mapping[str, str]) -> Finding:
    """vLLM and LMCache hash with Python's own hash by default: another seed in each process, and none hits."""
    seed = environ.get("PYTHONHASHSEED", "")
    if seed.isdigit():
        return Finding("hash seed", "ok", f"PYTHONHASHSEED={seed}")
    remedy = "set PYTHONHASHSEED=0 for every engine process, or LMCache's `pre_caching_hash_algorithm: sha256_cbor`"
    return Finding("hash seed", "warn", "PYTHONHASHSEED is not set: engine processes hash differently", remedy)
