# SPDX-License-Identifier: Apache-2.0
"""The payload of one PUT on its way into its reservation, over as many receives as it takes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from memkv_core.buffers import Cursor
from memkv_core.limits import WINDOW_BYTES
from memkv_server.engine.base import Reservation


class Intake:
    """Where the next bytes of a payload go; the values that nothing is stored of go to ``drain``, again and again.

    ``reservation`` is None where the drive takes no writes. Used by the lane's thread.
    """

    __slots__ = ("_cursor", "_ends", "_lengths", "_size", "reservation")

    def __init__(self, reservation: Reservation | None, lengths: Sequence[int], drain: memoryview) -> None:
        self.reservation = reservation
        views: list[memoryview] = []
        extents = reservation.extents if reservation is not None else [None] * len(lengths)
        for extent, length in zip(extents, lengths):
            if extent is None:
                views.extend(_drain_views(drain, length))
            elif length:
                views.append(extent)
        self._cursor = Cursor(views)
        self._size = self._cursor.left
        self._lengths = lengths
        self._ends: list[int] = []  # of the values in the payload, once asked for

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self._cursor.left

    def window(self, size_max: int = WINDOW_BYTES) -> list[memoryview]:
        """Where they go, for one receive of about ``size_max`` at most."""
        return self._cursor.window(size_max)

    def advance(self, size: int) -> None:
        """``size`` bytes of the window have come."""
        self._cursor.advance(size)

    def verify(self) -> None:
        """Has what is complete by now verified, in the core's cache still, while the kernel receives what follows.

        For the last bytes of a payload the commit does the same: a small one, which comes at once, costs no more.
        """
        if self.reservation is None:
            return
        if not self._ends:
            self._ends = list(accumulate(self._lengths))
        self.reservation.landed(bisect_right(self._ends, self._size - self._cursor.left))


def _drain_views(drain: memoryview, size: int) -> Iterator[memoryview]:
    while size > 0:
        yield drain[:size]
        size -= len(drain)
