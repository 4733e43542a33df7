# SPDX-License-Identifier: Apache-2.0
"""What a fork leaves behind in the child: locks held by threads that are not there, sockets that are the parent's.

An object that has either says so with ``watch``; its ``after_fork`` then runs in each child before anything else does.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class _AfterFork(Protocol):
    def after_fork(self) -> None:
        """Renews locks and lets go of connections. The child has one thread; no lock may be taken."""


_WATCHED: weakref.WeakSet[_AfterFork] = weakref.WeakSet()


def watch(owner: _AfterFork) -> None:
    """Has ``owner.after_fork()`` called in every child process, as long as ``owner`` lives."""
    _WATCHED.add(owner)


def _in_child() -> None:
    for owner in list(_WATCHED):
        owner.after_fork()


os.register_at_fork(after_in_child=_in_child)
