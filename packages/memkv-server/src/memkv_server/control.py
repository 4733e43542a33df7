# SPDX-License-Identifier: Apache-2.0
"""The control channel between the supervisor and one lane: JSON messages over AF_UNIX SOCK_SEQPACKET.

One message is one packet, so nothing needs framing; a client's socket rides on an ``adopt`` message as SCM_RIGHTS.
The end of either process is an end-of-file for the other, which is how a lane learns that its supervisor is gone.

    supervisor ──► lane    {"op": "start", ...}  {"op": "adopt", "prefix": hex} + fd  {"op": "status"}  {"op": "drain"}
    lane ──► supervisor    {"op": "ready"}       {"op": "failed", "error": text}      {"op": "status", ...}

What an operator asks of an engine (see ``operations``) has one form, whatever it is, and may come out of order:

    supervisor ──► lane    {"op": "call", "id": n, "name": text, "arguments": {...}}
    lane ──► supervisor    {"op": "answer", "id": n, "result": {...}}, or "error": text instead of a result
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

log = logging.getLogger("memkv.server.control")

MESSAGE_BYTES_MAX: Final = 1024 * 1024  # the kernel bounds a packet by the sender's buffer, about 208 KiB
QUEUE_MAX: Final = 1024  # messages waiting for a lane that does not read; beyond it sockets are turned away

Message = Mapping[str, Any]


class ControlChannel:
    """The supervisor's end. Not thread-safe: used by the supervisor's event loop only.

    ``on_message`` is called with every message of the lane, ``on_eof`` once when the lane's end is gone.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[dict[str, Any]], None], on_eof: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_eof = on_eof
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, socket.socket | None]] = deque()
        self._open = True
        self._loop.add_reader(sock, self._readable)

    def send(self, message: Message, passed: socket.socket | None = None) -> bool:
        """Sends now or queues; False when the channel is closed or its queue is full.

        ``passed`` is closed here once it is the lane's; where False is returned it is still the caller's.
        """
        if not self._open or len(self._waiting) >= QUEUE_MAX:
            return False
        packet = json.dumps(message, separators=(",", ":")).encode()
        self._waiting.append((packet, passed))
        if len(self._waiting) == 1:
            self._flush()
        return True

    def close(self) -> None:
        """Closes the channel and every socket that was not handed over. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _packet, passed in self._waiting:
            if passed is not None:
                passed.close()
        self._waiting.clear()

    def _flush(self) -> None:
        while self._waiting:
            packet, passed = self._waiting[0]
            try:
                if passed is None:
                    self._sock.send(packet)
                else:
                    socket.send_fds(self._sock, [packet], [passed.fileno()])
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._writable)
                return
            except OSError as error:
                log.debug("control channel: %s", error)
                self._ended()
                return
            self._waiting.popleft()
            if passed is not None:
                passed.close()

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._flush()

    def _readable(self) -> None:
        try:
            packet = self._sock.recv(MESSAGE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            log.debug("control channel: %s", error)
            packet = b""
        if not packet:
            self._ended()
            return
        try:
            message = json.loads(packet)
        except ValueError:
            log.error("a lane sent a control message that is not JSON (%d bytes); ignored", len(packet))
            return
        self._on_message(message)

    def _ended(self) -> None:
        if self._open:
            self.close()
            self._on_eof()
