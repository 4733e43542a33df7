# SPDX-License-Identifier: Apache-2.0
"""What an operator may set: in MP mode as ``adapter_params``, in-process under ``storage_plugin.<name>.`` of the yaml.

Every field of ``memkv_core.ClientConfig`` may stand there and comes before the file that MEMKV_CONFIG names and the
environment. The rest belongs to this adapter. Anything else is refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from memkv_core import ClientConfig
from memkv_core.errors import ConfigError
from memkv_core.log import RateLimitedLog, get_logger
from memkv_lmcache import limits

_log = RateLimitedLog(get_logger(__name__))

BOTH: Final = ("prefix",)
MP: Final = (*BOTH, "io_threads")
IN_PROCESS: Final = (*BOTH, "io_threads", "put_queue_mb", "tag")
_LOADER_KEYS: Final = ("module_path", "class_name", "config_class_name")  # LMCache's own, beside ours


@dataclass(frozen=True, slots=True)
class Options:
    """Checked. ``prefix`` and ``tag`` are texts of the operator's in the namespace's identity."""

    client: Mapping[str, Any]  # overrides for ClientConfig.load
    prefix: str = ""
    tag: str = ""
    io_threads: int = limits.IO_THREADS_COUNT
    put_queue_mb: int = limits.PUT_QUEUE_MB

    @classmethod
    def for_mp(cls, params: Mapping[str, Any]) -> Options:
        """From ``adapter_params``. Raises ConfigError that names the key."""
        return cls._parse(params, "adapter_params", MP)

    @classmethod
    def for_in_process(cls, extra_config: Mapping[str, Any] | None, start: str) -> Options:
        """From the keys of ``extra_config`` that begin with ``start`` (``storage_plugin.memkv.``)."""
        extra = extra_config or {}
        params = {key.removeprefix(start): value for key, value in extra.items() if key.startswith(start)}
        return cls._parse(params, f"extra_config: {start}*", IN_PROCESS)

    @classmethod
    def _parse(cls, params: Mapping[str, Any], where: str, own: tuple[str, ...]) -> Options:
        fields = tuple(ClientConfig.model_fields)
        for name in params:
            if name not in fields and name not in own and name not in _LOADER_KEYS:
                near = difflib.get_close_matches(str(name), [*fields, *own], n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ConfigError(
                    f"{where}: unknown setting {name!r}",
                    remedy=f"{hint}MemKV accepts: {', '.join(sorted((*fields, *own)))}",
                )
        return cls(
            client={name: params[name] for name in fields if name in params},
            prefix=_text(params, "prefix", where),
            tag=_text(params, "tag", where),
            io_threads=_count(params, "io_threads", where, limits.IO_THREADS_COUNT, limits.IO_THREADS_COUNT_MAX),
            put_queue_mb=_count(params, "put_queue_mb", where, limits.PUT_QUEUE_MB, limits.PUT_QUEUE_MB_MAX),
        )

    def client_config(self, *, timeout_ms_max: int) -> ClientConfig:
        """The whole chain with these overrides, with as many connections as there are threads. Raises ConfigError."""
        config = ClientConfig.load(**self.client)
        update: dict[str, Any] = {}
        if config.source_of("connections") == "default":
            update["connections"] = min(64, 2 * self.io_threads + limits.LOOKUP_THREADS_COUNT)
        if config.timeout_ms > timeout_ms_max:
            _log.warning(
                "timeout", "timeout_ms = %d is cut to %d: LMCache does not wait longer", config.timeout_ms,
                timeout_ms_max,
            )  # fmt: skip
            update["timeout_ms"] = timeout_ms_max
        return config.model_copy(update=update) if update else config


def plugin_start(extra_config: Mapping[str, Any] | None, kind: str, module_path: str) -> str:
    """The beginning of a plugin's keys in ``extra_config``: LMCache does not tell a plugin the name it was given.

    ``kind`` is ``storage_plugin`` or ``remote_storage_plugin``.
    """
    end = ".module_path"
    for key, value in (extra_config or {}).items():
        if key.startswith(f"{kind}.") and key.endswith(end) and value == module_path:
            return key[: -len(end)] + "."
    return f"{kind}.memkv."


def _text(params: Mapping[str, Any], name: str, where: str) -> str:
    value = params.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f"{where}: {name} = {value!r} is no text", remedy="accepted: a printable text")
    return value


def _count(params: Mapping[str, Any], name: str, where: str, default: int, highest: int) -> int:
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise ConfigError(f"{where}: {name} = {value!r}", remedy=f"accepted: a whole number, 1 to {highest}")
    return value
