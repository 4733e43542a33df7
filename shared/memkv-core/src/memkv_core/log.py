# SPDX-License-Identifier: Apache-2.0
"""Logging manners of a library: standard loggers, no handlers, a bounded rate, and no secret in any line.

Nothing here configures the root logger; the host (an engine, the CLI, a lane) decides where lines go.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from memkv_core.limits import LOG_INTERVAL_S, LOG_KEYS_MAX

MASK: Final = "****"
_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.?[A-Za-z0-9_-]*")

_secrets_lock = threading.Lock()
_secrets: set[str] = set()


def protect(secret: str) -> None:
    """Registers a secret, which ``mask_secrets`` and the loggers of ``get_logger`` replace. Thread-safe."""
    if len(secret) < 8:  # so short a text would blank out innocent words
        return
    with _secrets_lock:
        _secrets.add(secret)


def mask_secrets(text: str) -> str:
    """``text`` with registered secrets and anything that looks like a license token replaced by ``****``."""
    with _secrets_lock:
        secrets = tuple(_secrets)
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _TOKEN.sub(MASK, text)


class SecretFilter(logging.Filter):
    """Masks secrets in a record's message; for a handler or a logger (whose filters skip its children)."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 -- a wrong format string must stay the handler's report, not our crash
            return True
        masked = mask_secrets(message)
        if masked != message:
            record.msg, record.args = masked, None
        return True


def get_logger(name: str) -> logging.Logger:
    """The standard logger ``name``, with secrets masked."""
    logger = logging.getLogger(name)
    if not any(isinstance(f, SecretFilter) for f in logger.filters):
        logger.addFilter(SecretFilter())
    return logger


class RateLimitedLog:
    """At most one line per key in ``interval_s``; the next line says how many were left out. Thread-safe."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval_s: float = LOG_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        # key -> (time of the last line, lines left out since)
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def log(
        self, level: int, key: str, message: str, *args: Any, exc_info: Any = None, extra: dict[str, Any] | None = None
    ) -> bool:
        """Logs unless a line with this key was logged lately; True where it was logged."""
        left_out = self._admit(key)
        if left_out is None:
            return False
        if left_out:
            message, args = message + " (%d more like this were not logged)", (*args, left_out)
        self._logger.log(level, message, *args, exc_info=exc_info, extra=extra)
        return True

    def warning(self, key: str, message: str, *args: Any, exc_info: Any = None) -> bool:
        return self.log(logging.WARNING, key, message, *args, exc_info=exc_info)

    def error(self, key: str, message: str, *args: Any, exc_info: Any = None) -> bool:
        return self.log(logging.ERROR, key, message, *args, exc_info=exc_info)

    def _admit(self, key: str) -> int | None:
        """None: too soon. Else the number of lines left out since the last one."""
        now = self._clock()
        with self._lock:
            last = self._seen.get(key)
            if last is not None and now - last[0] < self._interval_s:
                self._seen[key] = (last[0], last[1] + 1)
                return None
            self._seen[key] = (now, 0)
            self._seen.move_to_end(key)
            if len(self._seen) > LOG_KEYS_MAX:
                self._seen.popitem(last=False)  # the key that has been quiet longest
            return last[1] if last is not None else 0
