# SPDX-License-Identifier: Apache-2.0
"""``--hicache-storage-backend-extra-config``: MemKV's keys taken, sglang's own left alone, anything else refused.

Every field of ``memkv_core.ClientConfig`` may stand there and comes before the yaml file and the environment. Four
more belong to this adapter and say what sglang's page keys do not (``identity.py``): ``tag``, ``kv_cache_dtype``,
``model_path`` and ``fingerprint``. Two say when a page is not worth its loading (``saving.py``): ``min_saving_ms`` and
``prefill_tokens_per_s``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memkv_core import ClientConfig
from memkv_core.errors import ConfigError
from memkv_core.log import RateLimitedLog, get_logger
from memkv_sglang.limits import CALL_TIMEOUT_MS_MAX

_log = RateLimitedLog(get_logger(__name__))

# What sglang reads from the same JSON (0.5.6 to 0.5.23). It takes some of them out before a backend sees them.
SGLANG_KEYS = frozenset(
    {
        "allocator", "backend_name", "class_name", "hicache_storage_pass_prefix_keys", "interface_v1", "module_path",
        "prefetch_threshold", "prefetch_timeout_base", "prefetch_timeout_per_ki_token", "tp_lcm_size",
    }
)  # fmt: skip
_SGLANG_PREFIXES = ("hicache_", "prefetch_")  # how sglang names its own: a newer one is not ours to refuse
_TEXT_KEYS = ("tag", "kv_cache_dtype", "model_path")
_NUMBER_KEYS = ("min_saving_ms", "prefill_tokens_per_s")
_OWN_KEYS = frozenset({*_TEXT_KEYS, *_NUMBER_KEYS, "fingerprint"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator wrote in the extra config, checked."""

    client: Mapping[str, Any]  # overrides for ClientConfig.load
    tag: str | None = None
    kv_cache_dtype: str | None = None
    model_path: str | None = None
    fingerprint: bool = True
    interface_v1: bool = False
    min_saving_ms: float | None = None  # None: whatever is there is loaded
    prefill_tokens_per_s: float | None = None

    @classmethod
    def parse(cls, extra_config: Mapping[str, Any] | None) -> Options:
        """Raises ConfigError naming the key that is unknown or has a value of the wrong kind."""
        extra = dict(extra_config or {})
        fields = ClientConfig.model_fields
        unknown = [key for key in extra if key not in fields and not _is_known(key)]
        if unknown:
            accepted = sorted({*fields, *_OWN_KEYS})
            near = difflib.get_close_matches(unknown[0], [*accepted, *SGLANG_KEYS], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"hicache-storage-backend-extra-config: unknown setting {', '.join(map(repr, unknown))}",
                remedy=f"{hint}MemKV accepts: {', '.join(accepted)}",
            )
        for key in _TEXT_KEYS:
            value = extra.get(key)
            if value is not None and not (isinstance(value, str) and value):
                raise _wrong(key, value, "a text that is not empty")
        for key in _NUMBER_KEYS:
            value = extra.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise _wrong(key, value, "a number")
        if not 0 <= (extra.get("min_saving_ms") or 0) < math.inf:
            raise _wrong("min_saving_ms", extra["min_saving_ms"], "milliseconds, 0 or more")
        if not 0 < (1 if extra.get("prefill_tokens_per_s") is None else extra["prefill_tokens_per_s"]) < math.inf:
            raise _wrong("prefill_tokens_per_s", extra["prefill_tokens_per_s"], "tokens a second, more than 0")
        if not isinstance(extra.get("fingerprint", True), bool):
            raise _wrong("fingerprint", extra["fingerprint"], "true or false")
        return cls(
            client={key: extra[key] for key in fields if key in extra},
            tag=extra.get("tag"),
            kv_cache_dtype=extra.get("kv_cache_dtype"),
            model_path=extra.get("model_path"),
            fingerprint=extra.get("fingerprint", True),
            interface_v1=bool(extra.get("interface_v1", 0)),
            min_saving_ms=extra.get("min_saving_ms"),
            prefill_tokens_per_s=extra.get("prefill_tokens_per_s"),
        )

    def client_config(self) -> ClientConfig:
        """The whole chain with these overrides; raises ConfigError."""
        return ClientConfig.load(**self.client)


def call_timeout_ms(config: ClientConfig) -> int:
    """The deadline of every call: the configured one, held below what sglang bears."""
    if config.timeout_ms > CALL_TIMEOUT_MS_MAX:
        _log.warning(
            "timeout", "timeout_ms = %d is cut to %d: sglang gives up on a backend that holds a thread for 10 s",
            config.timeout_ms, CALL_TIMEOUT_MS_MAX,
        )  # fmt: skip
    return min(config.timeout_ms, CALL_TIMEOUT_MS_MAX)


def _is_known(key: str) -> bool:
    return key in SGLANG_KEYS or key in _OWN_KEYS or key.startswith(_SGLANG_PREFIXES)


def _wrong(key: str, value: object, accepted: str) -> ConfigError:
    return ConfigError(
        f"hicache-storage-backend-extra-config: {key} = {value!r} has the wrong kind", remedy=f"accepted: {accepted}"
    )
