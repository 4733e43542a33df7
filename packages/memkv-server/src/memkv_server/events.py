# SPDX-License-Identifier: Apache-2.0
"""The events of a node that matter: one line each, under a name that stays. Lines without one are for people only.

As JSON a line carries ``event`` and its fields as members of their own; on a console the fields follow the words.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from memkv_core.log import RateLimitedLog

EVENTS: Final[dict[str, str]] = {
    "node_ready": "The node takes connections. Fields: address, admin, mode, lanes",
    "node_stopping": "SIGTERM or SIGINT came: what is in flight ends. Fields: lanes",
    "node_stopped": "All of its processes are gone",
    "node_drained": "An operator had it let its clients go; it takes none",
    "node_undrained": "It takes clients again",
    "license_ending": "The license ends within 30 days. Fields: expires_at, licensee",
    "lane_ready": "A lane serves. Fields: lane, records, recovery_seconds, restarts",
    "lane_down": "A lane's process ended, or could not start. Fields: lane, cause, again_seconds",
    "drive_offline": "A drive was taken out of service; its keys are misses. Fields: path, cause",
    "drive_online": "A drive serves again. Fields: path, records",
    "record_corrupt": "A record was dropped: its bytes are not those that were put. Fields: path",
    "namespace_dropped": "An operator dropped a namespace. Fields: namespace, records",
    "job_started": "An operator had work on a drive begin. Fields: job, path",
    "session_refused": "A client was refused. Fields: cause, peer",
    "login_refused": "A login to the dashboard with a wrong token. Fields: peer",
    "session_error": "A session ended for what its peer sent, or did not. Fields: cause, peer",
}


def event(logger: logging.Logger, name: str, words: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line for an event of the table."""
    logger.log(level, "%s", _text(words, fields), extra=_extra(name, words, fields))


def limited_event(
    log: RateLimitedLog, key: str, name: str, words: str, level: int = logging.WARNING, **fields: Any
) -> None:
    """The same for what a peer or a drive can bring about any number of times: one line a ``key`` in a while."""
    log.log(level, key, "%s", _text(words, fields), extra=_extra(name, words, fields))


def _text(words: str, fields: dict[str, Any]) -> str:
    return " ".join([words, *(f"{name}={_plain(value)}" for name, value in fields.items())])


def _plain(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or not text.isprintable() or " " in text else text


def _extra(name: str, words: str, fields: dict[str, Any]) -> dict[str, Any]:
    assert name in EVENTS, name
    return {"event": name, "words": words, "fields": fields}
