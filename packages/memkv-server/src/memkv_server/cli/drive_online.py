# SPDX-License-Identifier: Apache-2.0
"""The drives of running nodes, through their admin endpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from memkv_core.auth import admin_token
from memkv_core.errors import ConfigError, StorageError
from memkv_server.admin_client import Reply, ask, ask_all
from memkv_server.cli.admin_flags import cluster_key, nodes_of

POLL_S: Final = 0.3
Row = dict[str, Any]


class Nodes:
    """The nodes that are asked, and the token for them."""

    def __init__(self, servers: Sequence[str] | None, key_file: Path | None) -> None:
        self.names = nodes_of(servers)
        self._token = admin_token(cluster_key(key_file))

    def rows(self) -> list[Row]:
        """One row a drive, as ``survey_drive`` makes them; one row for a node that does not answer."""
        rows: list[Row] = []
        for reply in ask_all(self.names, "/v1/drives", self._token):
            if reply.body is None or reply.error or "drives" not in reply.body:
                rows.append(_unanswered(reply))
            else:
                rows += [{"node": reply.node, **drive} for drive in reply.body["drives"]]
        return rows

    def chosen(self, paths: Sequence[Path] | None) -> list[Row]:
        """The rows of these drives, or of all. Raises StorageError where one is not there or a node is silent."""
        rows = self.rows()
        for row in rows:
            if row["path"] is None:
                raise StorageError(str(row["failure"]), remedy="start the node, or work on its drives offline")
        wanted = [str(path.absolute()) for path in paths or ()]
        for path in wanted:
            if not any(row["path"] == path for row in rows):
                raise StorageError(f"{path} is no drive of {', '.join(self.names)}", remedy="see `memkv drive list`")
        return [row for row in rows if not wanted or row["path"] in wanted]

    def post(self, row: Row, action: str, **arguments: Any) -> Row:
        """Has something done to a drive; its job. Raises StorageError with the node's words."""
        query = urlencode({"path": row["path"], **arguments})
        reply = ask(row["node"], f"/v1/drives/{action}?{query}", self._token, method="POST")
        if reply.body is None or reply.error:
            raise StorageError(f"{row['node']}: {reply.error or 'it is no MemKV node'}")
        return dict(reply.body["job"])

    def wait(self, rows: Sequence[Row], progress: Callable[[int, int], None]) -> list[Row]:
        """Polls until the jobs on these drives have ended; the rows then."""
        wanted = {(row["node"], row["path"]) for row in rows}
        while True:
            now = [row for row in self.rows() if (row["node"], row["path"]) in wanted]
            jobs = [row.get("job") or {} for row in now]
            progress(sum(job.get("bytes", 0) for job in jobs), sum(job.get("bytes_total", 0) for job in jobs))
            if len(now) < len(wanted) or not any(job.get("state") == "running" for job in jobs):
                return now
            time.sleep(POLL_S)


def _unanswered(reply: Reply) -> Row:
    failure = reply.error or "it is no MemKV node"
    return {"node": reply.node, "path": None, "state": "no answer", "failure": f"{reply.node}: {failure}"}


def parse_rate(text: str) -> int:
    """``100MiB/s`` in bytes a second. Raises ConfigError."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text.strip().removesuffix("/s")))
    except ValidationError:
        raise ConfigError(f"--rate {text!r} is no rate", remedy="write it as 100MiB/s") from None
