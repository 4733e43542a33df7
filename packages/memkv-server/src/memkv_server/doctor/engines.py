# SPDX-License-Identifier: Apache-2.0
"""The engines of this environment: is MemKV's adapter beside each, of this release, where the engine looks for it, and
will processes agree on hashes.

No engine is imported. sglang and LMCache are told the name of a module: it has to be found. NIXL looks into a folder:
``memkv-nixl status`` says whether the plugin is in it. That an engine loads it, and gets back what it stored, is the
business of ``memkv-lmcache check`` and ``memkv-nixl check``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from memkv_server import __version__
from memkv_server.doctor.finding import Finding

# the engine's distribution -> MemKV's, and how the engine is told of it
_ADAPTERS: Final = {
    "sglang": ("memkv-sglang", "--hicache-storage-backend dynamic"),
    "lmcache": ("memkv-lmcache", "`memkv-lmcache check` walks LMCache's way to it"),
    "nixl": ("memkv-nixl", "it is linked into NIXL"),
}
_MODULES: Final = {
    "memkv-sglang": ("memkv_sglang.backend",),
    "memkv-lmcache": ("memkv_lmcache.l2_adapter", "memkv_lmcache.backend", "memkv_lmcache.connector"),
}
_REINSTALL: Final = "install its wheel of this release again"
_STATUS_S: Final = 30.0
_HASHING: Final = ("vllm", "lmcache")

VersionOf = Callable[[str], str | None]
Registered = Callable[[str], "Finding | None"]


def installed_version(distribution: str) -> str | None:
    """The version of a distribution in this environment; None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def registered(adapter: str) -> Finding | None:
    """Whether the engine finds the adapter where it looks; None: nothing is amiss."""
    for module in _MODULES.get(adapter, ()):
        try:
            found = importlib.util.find_spec(module) is not None
        except ImportError:
            found = False
        if not found:
            return Finding("engine", "fail", f"{adapter} lacks {module}, which the engine asks for", _REINSTALL)
    return _plugin_of_nixl() if adapter == "memkv-nixl" else None


def _plugin_of_nixl() -> Finding | None:
    beside = Path(sys.executable).with_name("memkv-nixl")
    command = str(beside) if beside.exists() else shutil.which("memkv-nixl")
    if command is None:
        return Finding("engine", "fail", "memkv-nixl is installed, and its command is not there", _REINSTALL)
    try:
        status = subprocess.run([command, "status"], capture_output=True, text=True, timeout=_STATUS_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("engine", "warn", f"`memkv-nixl status` does not answer: {error}", "run it by itself")
    if status.returncode == 0:
        return None
    said = (status.stderr or status.stdout).strip().splitlines()
    text = f"NIXL does not find the plugin: {said[0] if said else 'memkv-nixl status says nothing'}"
    return Finding("engine", "fail", text, "run `memkv-nixl install`, again after each upgrade of NIXL")


def examine_engines(
    environ: Mapping[str, str], version_of: VersionOf = installed_version, registered: Registered = registered
) -> Iterator[Finding]:
    """All about the engines; ``environ`` is what they would be started with."""
    found = False
    for engine, (adapter, how) in _ADAPTERS.items():
        engine_version, adapter_version = version_of(engine), version_of(adapter)
        if engine_version is None and adapter_version is None:
            continue
        found = True
        pair = _pair(engine, engine_version, adapter, adapter_version, how)
        amiss = registered(adapter) if pair.verdict == "ok" else None
        yield amiss or pair
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
