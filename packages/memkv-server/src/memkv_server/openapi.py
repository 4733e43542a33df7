# SPDX-License-Identifier: Apache-2.0
"""The admin endpoint as an OpenAPI 3.1 document: what ``GET /v1/openapi.json`` answers and the site shows.

One row for each operation; a test compares the rows with the routes of the application, and another has schemathesis
try them on a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from memkv_server import __version__
from memkv_server.key_admin import CURSOR_PATTERN
from memkv_server.limits import JOB_RATE_DEFAULT, JOB_RATE_MAX, JOB_RATE_MIN, LISTED_KEYS_MAX

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_FLAG: Final[Schema] = {"type": "boolean"}
_SECONDS: Final[Schema] = {"type": "number", "minimum": 0}


def _object(**properties: Schema) -> Schema:
    """All of these, and maybe others: within a major version fields are only added."""
    return {"type": "object", "properties": properties, "required": sorted(properties)}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


_ERROR: Final = _object(error=_TEXT)
_HEALTH: Final = _object(
    status={"enum": ["healthy", "degraded", "unhealthy"]},
    drives_online=_COUNT,
    drives_offline=_COUNT,
    drives_total=_COUNT,
    rdma_active=_FLAG,
    lanes=_object(serving=_COUNT, total=_COUNT),
)
_STATUS: Final = _object(
    version=_TEXT, uptime_seconds=_SECONDS, started_at=_SECONDS, address=_TEXT, admin_address=_TEXT, health=_HEALTH,
    ready=_FLAG, draining=_FLAG, connections=_COUNT, sessions=_COUNT, namespace_count=_COUNT,
    license={"type": "object"}, memory={"type": "object"}, storage={"type": "object"}, handshakes={"type": "object"},
    namespaces=_list({"type": "object"}), lanes=_list({"type": "object"}),
)  # fmt: skip
_DRAIN: Final = _object(draining=_FLAG, connections=_COUNT, sessions=_COUNT)
_JOB: Final = _object(path=_TEXT, job=_object(name=_TEXT, state=_TEXT, seconds=_SECONDS))
_NAMESPACE: Final = _object(name=_TEXT, identity_digest=_TEXT, records=_COUNT, bytes=_COUNT, hits=_COUNT, misses=_COUNT)
_DROPPED: Final = _object(
    name=_TEXT, records=_COUNT, bytes=_COUNT, away=_list(_TEXT), lanes=_object(dropped=_COUNT, total=_COUNT),
    seconds=_SECONDS,
)  # fmt: skip
_KEYS: Final = _object(
    keys=_list(_object(key=_TEXT, size=_COUNT, meta_bytes=_COUNT, lane=_COUNT)), after={"type": ["string", "null"]}
)


@dataclass(frozen=True)
class Parameter:
    """Of the query, or of the path where ``path``."""

    name: str
    help: str
    schema: Schema
    required: bool = False
    path: bool = False


@dataclass(frozen=True)
class Operation:
    """One method of one path. ``result`` is the schema of 200, or None for plain text; ``refusals`` by status."""

    method: str
    path: str
    help: str
    result: Schema | None
    refusals: dict[int, str] = field(default_factory=dict)
    parameters: Sequence[Parameter] = ()
    open: bool = False  # needs no token


_ABSENT: Final = "no lane knows it"
_AWAY: Final = "a lane does not answer, or the lanes are starting"
_NAME: Final = Parameter("name", "The namespace's.", {"type": "string", "minLength": 1}, required=True, path=True)
_PATH: Final = Parameter("path", "Of the drive, as `GET /v1/drives` names it.", _TEXT, required=True)

OPERATIONS: Final = (
    Operation("GET", "/v1/health", "How the node is.", _HEALTH, {503: "unhealthy"}, open=True),
    Operation("GET", "/v1/ready", "`ok` while data connections are taken.", None, {503: "why none is"}, open=True),
    Operation("GET", "/v1/openapi.json", "This document.", {"type": "object"}, open=True),
    Operation("GET", "/v1/status", "The whole state of the node.", _STATUS),
    Operation("GET", "/v1/metrics", "For Prometheus.", None),
    Operation("GET", "/v1/dashboard", "What the dashboard shows of the cluster.", {"type": "object"}),
    Operation(
        "GET", "/v1/dashboard/node", "What it shows of this node, for its peers.",
        _object(node={"type": "object"}, samples=_list({"type": "object"})), {400: "`since` is no such time"},
        (Parameter("since", "Samples later than this, in seconds since the epoch.",
                   {"type": "integer", "minimum": 0, "maximum": 10**12 - 1}),),
    ),
    Operation("POST", "/v1/drain", "Lets clients go and takes none.", _DRAIN),
    Operation("DELETE", "/v1/drain", "Takes clients again.", _DRAIN),
    Operation(
        "GET", "/v1/drives", "Every drive, with the work on it.",
        _object(drives=_list(_object(path={"type": ["string", "null"]}, state=_TEXT, lane=_COUNT))),
    ),
    Operation(
        "POST", "/v1/drives/scrub", "Begins a scrub.", _JOB,
        {400: "the rate is none", 404: "the node has no such drive", 409: "it is refused, such as while one runs"},
        (_PATH, Parameter("rate", f"Bytes a second; {JOB_RATE_DEFAULT} if it is not given.",
                          {"type": "integer", "minimum": JOB_RATE_MIN, "maximum": JOB_RATE_MAX})),
    ),
    Operation(
        "POST", "/v1/drives/stop", "Ends the work on a drive.", _JOB,
        {404: "the node has no such drive", 409: "nothing runs on it"}, (_PATH,),
    ),
    Operation(
        "GET", "/v1/namespaces", "What each namespace holds.",
        _object(namespaces=_list(_NAMESPACE), lanes=_object(serving=_COUNT, total=_COUNT)),
    ),
    Operation(
        "GET", "/v1/namespaces/{name}", "The identity of one, as JSON text; empty where none was presented.",
        _object(name=_TEXT, identity=_TEXT), {404: _ABSENT, 503: _AWAY}, (_NAME,),
    ),
    Operation(
        "DELETE", "/v1/namespaces/{name}", "Drops one, at once.",
        _DROPPED, {404: _ABSENT, 503: "not dropped everywhere: ask again"}, (_NAME,),
    ),
    Operation(
        "GET", "/v1/keys", "Keys of a namespace, in no order.", _KEYS,
        {400: "an argument is malformed", 404: _ABSENT, 503: _AWAY},
        (
            Parameter("namespace", "Whose keys.", _TEXT, required=True),
            Parameter("prefix", "What they begin with; `\\xNN` is a byte, `\\\\` a backslash.",
                      {"type": "string", "pattern": r"^([^\\]|\\\\|\\x[0-9a-fA-F]{2})*$"}),
            Parameter("limit", "At most so many; 1000 if it is not given.",
                      {"type": "integer", "minimum": 1, "maximum": LISTED_KEYS_MAX}),
            Parameter("after", "Where to go on, from the answer before.",
                      {"type": "string", "pattern": f"{CURSOR_PATTERN}|^$"}),
        ),
    ),
)  # fmt: skip


def document() -> dict[str, Any]:
    """The document, JSON-able."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "MemKV node", "version": __version__, "description": "The admin endpoint of one node."},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`memkv admin token` prints it."}
            },
            "schemas": {"Error": _ERROR},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    refusals = {} if operation.open else {401: "the token is missing, or not of this cluster's key"}
    responses = {
        str(status): _answer(reason, _refusal(operation, status))
        for status, reason in sorted({**refusals, **operation.refusals}.items())
    }
    responses["200"] = _answer("done", operation.result)
    return {
        "summary": operation.help,
        "operationId": f"{operation.method.lower()}_{operation.path.strip('/').translate(_WORDS)}",
        "security": [] if operation.open else [{"token": []}],
        "parameters": [
            {
                "name": each.name,
                "in": "path" if each.path else "query",
                "description": each.help,
                "required": each.required,
                "schema": each.schema,
            }
            for each in operation.parameters
        ],
        "responses": responses,
    }


_WORDS: Final = str.maketrans({"/": "_", ".": "_", "{": None, "}": None})


def _refusal(operation: Operation, status: int) -> Schema:
    return _HEALTH if (operation.path, status) == ("/v1/health", 503) else {"$ref": "#/components/schemas/Error"}


def _answer(reason: str, schema: Schema | None) -> dict[str, Any]:
    if schema is None:
        return {"description": reason, "content": {"text/plain": {"schema": _TEXT}}}
    return {"description": reason, "content": {"application/json": {"schema": schema}}}
