# SPDX-License-Identifier: Apache-2.0
"""Log lines of the server's processes, on stderr: for a console, or one JSON object a line.

2026-01-31T12:00:00.123Z INFO  memkv.server: memkv node ready address=0.0.0.0:9900 ...
{"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "memkv.server", "message": "...", "pid": 4711}
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

from memkv_core.log import SecretFilter

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str = "info", format: str = "console") -> None:
    """Sends every logger of this process to stderr. ``format`` is ``console`` or ``json``. Secrets are masked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _ConsoleFormatter())
    handler.addFilter(SecretFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    for name in ("asyncio", "uvicorn.error"):  # their news of every connection are not ours
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<5} {record.name}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
