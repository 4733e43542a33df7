# SPDX-License-Identifier: Apache-2.0
"""HTTP of the admin endpoint: as uvicorn speaks it, but what is no HTTP is refused in JSON like everything else."""

from __future__ import annotations

import json
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_REFUSED: Final = json.dumps({"error": "this is no HTTP request"}).encode()


class AdminProtocol(H11Protocol):
    """uvicorn's, on h11; its one sentence of plain text is ours."""

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed, and closes the connection."""
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(_REFUSED))),
            ("connection", "close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=_REFUSED), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
