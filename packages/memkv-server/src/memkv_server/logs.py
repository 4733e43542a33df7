# SPDX-License-Identifier: Apache-2.0
"""Log lines of the server's processes, on stderr: for a console, or one JSON object a line.

2026-01-31T12:00:00.123Z INFO  memkv.server: memkv node ready address=0.0.0.0:9900 ...
{"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "memkv.server", "message": "...", "pid": 4711,
 "event": "node_ready", "address": "0.0.0.0:9900", ...}

Whatever a line is made of, secrets in it are masked, and no place in the code can fill a disk: beyond BURST lines in
INTERVAL_S its lines are left out, and the next one says how many.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from memkv_core.limits import LOG_INTERVAL_S
from memkv_core.log import mask_secrets
from memkv_server.problems import PROBLEMS

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
BURST: Final = 50
INTERVAL_S: Final = LOG_INTERVAL_S
_RESERVED: Final = frozenset({"time", "level", "logger", "message", "pid", "event", "exception"})


def configure(level: str = "info", format: str = "console") -> None:
    """Sends every logger of this process to stderr. ``format`` is ``console`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _ConsoleFormatter())
    handler.addFilter(BurstFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler, PROBLEMS]
    root.setLevel(_LEVELS[level])
    for name in ("asyncio", "uvicorn.error"):  # their news of every connection are not ours
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))


class BurstFilter(logging.Filter):
    """Bounds the lines of each place in the code. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # since when, lines

    def filter(self, record: logging.LogRecord) -> bool:
        place, now_s = (record.pathname, record.lineno), self._clock()
        with self._lock:
            since_s, lines = self._seen.get(place, (now_s, 0))
            if now_s - since_s >= INTERVAL_S:
                left_out = lines - BURST
                since_s, lines = now_s, 0
            else:
                left_out = 0
            self._seen[place] = (since_s, lines + 1)
        if left_out > 0:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like this were not logged)", None
        return lines < BURST


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<5} {record.name}: {record.getMessage()}"
        return mask_secrets(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if (event := getattr(record, "event", None)) is not None:
            line["event"] = event
            fields = getattr(record, "fields", {})
            line.update({name: value for name, value in fields.items() if name not in _RESERVED})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # What JSON writes otherwise than it is (a quote, a line's end) is in no secret.
        return mask_secrets(json.dumps(line, ensure_ascii=False, default=str))
