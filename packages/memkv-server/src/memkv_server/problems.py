# SPDX-License-Identifier: Apache-2.0
"""The latest warnings and errors of a process, of each kind one, for whoever looks at the node and not at its log.

A kind is an event with its cause, or a place in the code: what comes again takes the place of the one before and is
counted, so that a flood of one kind pushes no other out.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from memkv_core.log import mask_secrets
from memkv_server.limits import PROBLEM_TEXT_MAX, PROBLEMS_MAX

_ABOUT: Final = ("cause", "path", "lane")  # fields that tell two problems of one event apart


class ProblemLog(logging.Handler):
    """A handler that keeps what it is told, of at least ``level``. Thread-safe."""

    def __init__(self, level: int = logging.WARNING, count_max: int = PROBLEMS_MAX) -> None:
        super().__init__(level)
        self._count_max = count_max
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], dict[str, Any]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        try:
            message = str(getattr(record, "words", None) or record.getMessage())
        except (TypeError, ValueError):  # a format that does not fit its arguments: the log says so itself
            return
        name = getattr(record, "event", None)
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        if "path" in fields and str(fields["path"]) not in message:
            message = f"{fields['path']}: {message}"
        about = tuple(str(fields[field])[:PROBLEM_TEXT_MAX] for field in _ABOUT if field in fields)
        kind = (name, *about) if name is not None else (record.pathname, record.lineno)
        with self._guard:
            before = self._kept.pop(kind, None)
            self._kept[kind] = {
                "at": round(record.created, 3),
                "since": before["since"] if before is not None else round(record.created, 3),
                "count": before["count"] + 1 if before is not None else 1,
                "level": record.levelname.lower(),
                "event": name,
                "cause": str(fields["cause"])[:PROBLEM_TEXT_MAX] if "cause" in fields else None,
                "text": mask_secrets(message)[:PROBLEM_TEXT_MAX],
            }
            while len(self._kept) > self._count_max:
                self._kept.popitem(last=False)

    def latest(self) -> list[dict[str, Any]]:
        """What is kept, the latest first."""
        with self._guard:
            return [dict(problem) for problem in reversed(self._kept.values())]


PROBLEMS: Final = ProblemLog()  # of this process; ``logs.configure`` has it listen
