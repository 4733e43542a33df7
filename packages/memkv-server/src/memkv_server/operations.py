# SPDX-License-Identifier: Apache-2.0
"""What an operator may have done to a lane's engine while it serves: by name, from the supervisor's control channel.

Each operation is bounded: it starts, stops or looks at something, and what takes longer is done in the engine's tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from memkv_core.errors import MemKVError, StorageError
from memkv_server.engine import DriveSet
from memkv_server.engine.base import Engine
from memkv_server.events import event
from memkv_server.limits import LIST_KEYS_MAX, STATUS_NAMESPACES_MAX

_LOG: Final = logging.getLogger("memkv.server.lane")

Operation = Callable[[Engine, Mapping[str, Any]], Mapping[str, Any]]
"""Takes the engine and the call's arguments; returns what goes back, JSON-able. Raises MemKVError to refuse."""


def _drives_of(engine: Engine) -> DriveSet:
    if not isinstance(engine, DriveSet):
        raise StorageError("this lane has no drives", remedy="use mode file or direct")
    return engine


def _start_scrub(engine: Engine, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    from memkv_server.drives.scrub import Scrub

    rate = int(arguments["rate_bytes_s"])
    job = _drives_of(engine).start_job(arguments["path"], lambda drive, notify: Scrub(drive, rate, notify))
    event(_LOG, "job_started", "a scrub begins", job="scrub", path=arguments["path"])
    return job.status()


def _stop_job(engine: Engine, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return _drives_of(engine).stop_job(arguments["path"]).status()


def _drop_namespace(engine: Engine, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    dropped = engine.drop_namespace(str(arguments["name"]))
    if dropped is not None:
        words = "a namespace is dropped"
        event(_LOG, "namespace_dropped", words, namespace=dropped["name"], records=dropped["records"])
    return {"dropped": dropped}


def _list_namespaces(engine: Engine, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"namespaces": engine.list_namespaces(str(arguments["after"]), STATUS_NAMESPACES_MAX)}


def _describe_namespace(engine: Engine, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"namespace": _drives_of(engine).describe_namespace(str(arguments["name"]))}


def _list_keys(engine: Engine, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    after, prefix = bytes.fromhex(arguments["after"]), bytes.fromhex(arguments["prefix"])
    count = min(int(arguments["count"]), LIST_KEYS_MAX)
    piece = _drives_of(engine).list_keys(str(arguments["name"]), int(arguments["drive"]), after, prefix, count)
    if piece is None:
        return {"known": False, "keys": [], "drive": None, "after": ""}
    return {"known": True, "keys": piece.rows, "drive": piece.drive, "after": piece.after.hex()}


OPERATIONS: Final[dict[str, Operation]] = {
    "start_scrub": _start_scrub,
    "stop_job": _stop_job,
    "drop_namespace": _drop_namespace,
    "list_namespaces": _list_namespaces,
    "describe_namespace": _describe_namespace,
    "list_keys": _list_keys,
}


def answer(engine: Engine, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``{"result": ...}``, or ``{"error": text}`` where it was refused."""
    operation = OPERATIONS.get(name)
    if operation is None:
        return {"error": f"this lane knows no operation {name!r}; start the same release everywhere"}
    try:
        return {"result": dict(operation(engine, arguments))}
    except MemKVError as error:
        _LOG.warning("%s is refused: %s", name, error)
        return {"error": str(error)}
