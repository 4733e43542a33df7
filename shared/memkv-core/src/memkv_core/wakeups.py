# SPDX-License-Identifier: Apache-2.0
"""How much of a payload must be there before its receiver is woken (SO_RCVLOWAT).

The kernel says "readable" after each segment of 64 KiB. A receiver that is faster than its sender then sleeps and wakes
for each of them, and the sender pays for the waking: 10 % of a put's processor time on both sides. TCP honours it since
Linux 4.18; a Unix socket wakes as before.
"""

from __future__ import annotations

import socket

from memkv_core.limits import WAKE_BYTES, WAKE_BYTES_MIN


class Wakeups:
    """Of one socket. Used by the thread that receives from it."""

    __slots__ = ("_size", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._size = 1

    def expect(self, size: int) -> None:
        """``size`` bytes of a payload are still to come; 0 lets the next byte of anything wake the receiver again."""
        wanted = min(size, WAKE_BYTES) if size >= WAKE_BYTES_MIN else 1
        if wanted != self._size:
            self._size = wanted
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
