# SPDX-License-Identifier: Apache-2.0
"""Would LMCache load the plugin, reach the cluster, and hit what another process stored? A list of findings.

LMCache logs what a plugin's constructor raises and runs on without a remote tier, and a wrong hash setting shows as
nothing but misses; so this walks the same path beforehand and says what is wrong.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from memkv_core import Client, ClientConfig
from memkv_core.errors import ConfigError, MemKVError
from memkv_core.yamlfile import read_yaml_mapping
from memkv_lmcache import _compat, limits
from memkv_lmcache.options import Options
from memkv_lmcache.probe import unreachable_servers

TESTED: Final = ("0.5.6", "0.5.7rc2")

Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class _Route:
    """One way LMCache loads us: the yaml's list, the class it should name, and the base that LMCache asks for."""

    listed_in: str
    kind: str
    module: str
    class_name: str
    base: Any


_STORAGE: Final = _Route(
    "storage_plugins", "storage_plugin", "memkv_lmcache.backend", "MemKVStorageBackend", _compat.StoragePluginInterface
)
_REMOTE: Final = _Route(
    "remote_storage_plugins", "remote_storage_plugin", "memkv_lmcache.connector", "MemKVConnectorAdapter",
    _compat.ConnectorAdapter,
)  # fmt: skip
_L2: Final = _Route("--l2-adapter", "", "memkv_lmcache.l2_adapter", "MemKVL2Adapter", _compat.L2AdapterInterface)


def check(config_path: Path | None, l2_adapter: str | None) -> Iterator[Finding]:
    """All findings, in order. Raises nothing that is MemKV's: that is a finding too."""
    yield _lmcache()
    overrides: Mapping[str, Any] = {}
    try:
        if config_path is not None:
            settings = read_yaml_mapping(config_path, named_by="--config")
            overrides = yield from _in_process(settings, str(config_path))
        if l2_adapter is not None or config_path is None:
            overrides = yield from _mp(l2_adapter)
        config = ClientConfig.load(**overrides)
        yield from _cluster(config)
    except MemKVError as error:
        yield Finding("error", str(error))


def _lmcache() -> Finding:
    version = _compat.version()
    if version is None:
        return Finding("warning", "LMCache is not installed in this environment: only the rest is checked")
    if version not in TESTED:
        return Finding("warning", f"LMCache {version} is not one that this was tested on: {', '.join(TESTED)}")
    return Finding("ok", f"LMCache {version}")


# -- in-process mode --------------------------------------------------------------------------------------------------
def _in_process(settings: Mapping[str, Any], where: str) -> Generator[Finding, None, Mapping[str, Any]]:
    """What LMCache would make of the yaml; returns the client settings in it."""
    extra = settings.get("extra_config") or {}
    if not isinstance(extra, Mapping):
        raise ConfigError(f"{where}: extra_config is no mapping", remedy="write `key: value` lines below it")
    found: Mapping[str, Any] | None = None
    for route in (_STORAGE, _REMOTE):
        for name in _names(settings.get(route.listed_in)):
            if not _is_ours(route, name, extra):
                continue
            found = yield from _plugin(route, name, extra, where)
            if route is _REMOTE and name.partition(".")[0] != "memkv":
                yield Finding("error", f"{where}: {route.listed_in}: {name}: the name of this route must be memkv")
    if found is None:
        raise ConfigError(
            f"{where}: neither storage_plugins nor remote_storage_plugins lists a plugin of MemKV",
            remedy="write `storage_plugins: memkv` and its two keys below extra_config, see docs/adapters/vllm.md",
        )
    yield from _pitfalls(settings, where)
    return found


def _is_ours(route: _Route, name: str, extra: Mapping[str, Any]) -> bool:
    module = str(extra.get(f"{route.kind}.{name}.module_path", ""))
    return name.partition(".")[0] == "memkv" or module.startswith("memkv_lmcache")


def _plugin(
    route: _Route, name: str, extra: Mapping[str, Any], where: str
) -> Generator[Finding, None, Mapping[str, Any]]:
    start = f"{route.kind}.{name}."
    for key, wanted in (("module_path", route.module), ("class_name", route.class_name)):
        if not extra.get(start + key):
            raise ConfigError(
                f"{where}: extra_config lacks {start}{key}, so LMCache skips the plugin {name}",
                remedy=f"write `{start}{key}: {wanted}`",
            )
    options = Options.for_in_process(extra, start)
    yield _loads(route, str(extra[f"{start}module_path"]), str(extra[f"{start}class_name"]))
    return options.client


def _names(value: Any) -> list[str]:
    """LMCache takes a list, or one text with commas."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    return [str(part).strip() for part in parts]


def _pitfalls(settings: Mapping[str, Any], where: str) -> Iterator[Finding]:
    algorithm = settings.get("pre_caching_hash_algorithm", "builtin")
    seed = os.environ.get("PYTHONHASHSEED", "")
    if algorithm == "builtin" and not seed.isdigit():
        yield Finding(
            "warning",
            f"{where}: pre_caching_hash_algorithm is builtin and PYTHONHASHSEED is not set: every process hashes "
            "differently and none hits what another stored; set `pre_caching_hash_algorithm: sha256_cbor`, or "
            "PYTHONHASHSEED=0 for every vLLM process",
        )
    elif algorithm == "builtin":
        yield Finding("warning", f"{where}: the builtin hash has 64 bits; sha256_cbor cannot collide")
    else:
        yield Finding("ok", f"{algorithm} hashes are the same in every process")
    local_cpu = settings.get("local_cpu", True)
    if settings.get("enable_pd") and not local_cpu:
        yield Finding("error", f"{where}: with enable_pd and without local_cpu LMCache loads no storage plugin")
    if settings.get("use_layerwise") and local_cpu:
        yield Finding(
            "warning",
            f"{where}: with use_layerwise LMCache cannot read one prompt from two places: set `local_cpu: false`, or "
            "`retrieve_locations: [memkv]`",
        )


# -- MP mode ----------------------------------------------------------------------------------------------------------
def _mp(l2_adapter: str | None) -> Generator[Finding, None, Mapping[str, Any]]:
    """What ``lmcache server`` would make of its JSON; returns the client settings in it."""
    if l2_adapter is None:
        yield _loads(_L2, _L2.module, _L2.class_name)
        return {}
    try:
        spec = json.loads(l2_adapter)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--l2-adapter is no JSON: {error}", remedy="quote it for the shell with '...'") from None
    if not isinstance(spec, dict):
        raise ConfigError("--l2-adapter is no JSON object", remedy='write {"type": "plugin", ...}')
    if spec.get("type") != "plugin":
        raise ConfigError(f"--l2-adapter: type is {spec.get('type')!r}", remedy='write "type": "plugin"')
    for key, wanted in (("module_path", _L2.module), ("class_name", _L2.class_name)):
        if not spec.get(key):
            raise ConfigError(f"--l2-adapter lacks {key}", remedy=f'write "{key}": "{wanted}"')
    params = spec.get("adapter_params", {})
    if not isinstance(params, dict):
        raise ConfigError("--l2-adapter: adapter_params is no JSON object", remedy='write "adapter_params": {...}')
    options = Options.for_mp(params)
    yield _loads(_L2, str(spec["module_path"]), str(spec["class_name"]))
    return options.client


# -- what both share --------------------------------------------------------------------------------------------------
def _loads(route: _Route, module_path: str, class_name: str) -> Finding:
    """Whether LMCache would get the class and could make one."""
    where = f"{module_path}.{class_name}"
    try:
        module = importlib.import_module(module_path)
    except ImportError as error:
        return Finding("error", f"{module_path} cannot be imported: {error}; the module is {route.module}")
    found = getattr(module, class_name, None)
    if found is None:
        return Finding("error", f"{module_path} has no {class_name}; the class is {route.class_name}")
    if not inspect.isclass(found) or not issubclass(found, route.base):
        return Finding("error", f"{where} is no {route.base.__name__}; use {route.module}.{route.class_name}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return Finding("error", f"this LMCache asks {where} for {', '.join(missing)}, which it lacks")
    return Finding("ok", f"LMCache loads {where}")


def _cluster(config: ClientConfig) -> Iterator[Finding]:
    client = Client(config, identity={"check": "memkv-lmcache"})
    yield Finding("ok", f"license verified, plan {client.license.plan}")
    down = unreachable_servers(client)
    for server in client.servers:
        yield Finding("error", f"{server}: {down[server]}") if server in down else Finding("ok", f"{server} answers")
    if not down:
        yield _round_trip(client, config)
    client.close()


def _round_trip(client: Client, config: ClientConfig) -> Finding:
    """Whether a second client reads what a first one stored."""
    key, value, target = secrets.token_bytes(16), secrets.token_bytes(4096), bytearray(4096)
    stored = client.put([key], [value], timeout_ms=limits.CHECK_TIMEOUT_MS)[0]
    with Client(config, identity={"check": "memkv-lmcache"}) as other:
        read = other.get([key], [target], timeout_ms=limits.CHECK_TIMEOUT_MS)[0]
        other.delete([key], timeout_ms=limits.CHECK_TIMEOUT_MS)
    if not stored:
        return Finding("error", f"a value of 4 KiB was not stored: {_causes(client)}")
    if read != 4096 or target != value:
        return Finding("error", f"a value that was stored was not read back: {_causes(client)}")
    return Finding("ok", "a value stored by one client is read by another")


def _causes(client: Client) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in client.stats().misses.items()) or "no cause was counted"
