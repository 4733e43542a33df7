# SPDX-License-Identifier: Apache-2.0
"""Whether it pays to load a prefix, or is faster to compute it again. Pure: the clock is passed in.

Loading: ``Client.estimate`` says how long. Recomputing: at the prefill speed that the operator named, or else at the
one that is seen here. sglang tells a backend nothing of its speed, but asks for the pages of a prompt when the request
comes, and hands over those that were missing once they are computed::

    batch_exists(p0 p1 … p40)  ─ 12 are there ─►  prefill of p12 … p40  ─►  batch_set(p12 … p40)
    ├───────────────────────── seconds for 29 pages ──────────────────────────┤

That is with whatever the request waited for in between, so a busy engine looks slower than it is. Then more is loaded
than need be, which is what an engine without this does anyway.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from memkv_sglang.limits import SAVING_MARKS_COUNT, SAVING_WAIT_S

_MARK_EVERY: Final = 16  # pages; and the last one
_WEIGHT: Final = 0.2
_MARKS_MIN: Final = 3  # before a speed is believed


class PrefillPace:
    """Pages a second that the engine computes, seen from the storage. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._marks: OrderedDict[str, tuple[float, int]] = OrderedDict()  # key -> (when it was asked for, pages to do)
        self._seconds_per_page = 0.0
        self._seen = 0

    def missing(self, keys: Sequence[str], now_s: float) -> None:
        """The engine was told that these pages, in the order of the prompt, are not there: it will compute them."""
        with self._lock:
            for place in {*range(_MARK_EVERY - 1, len(keys), _MARK_EVERY), len(keys) - 1} if keys else ():
                known = self._marks.get(keys[place])
                if known is None or now_s - known[0] > SAVING_WAIT_S:  # else it asked again while it waited
                    self._marks[keys[place]] = (now_s, place + 1)
            while len(self._marks) > SAVING_MARKS_COUNT:
                self._marks.popitem(last=False)

    def written(self, keys: Sequence[str], now_s: float) -> None:
        """These pages are computed."""
        if not self._marks:
            return
        with self._lock:
            found = [mark for key in keys if (mark := self._marks.pop(key, None)) is not None]
            if not found:
                return
            asked_s, pages = max(found, key=lambda mark: mark[1])
            seconds = now_s - asked_s
            if not 0 < seconds <= SAVING_WAIT_S:
                return
            sample = seconds / pages
            average = self._seconds_per_page
            self._seconds_per_page = average + _WEIGHT * (sample - average) if self._seen else sample
            self._seen += 1

    def recompute_ms(self, pages: int) -> float | None:
        """How long the engine takes for so many pages; None before it was seen to compute some."""
        with self._lock:
            return pages * self._seconds_per_page * 1e3 if self._seen >= _MARKS_MIN else None


class Saving:
    """The rule of ``min_saving_ms``. Thread-safe."""

    def __init__(self, min_saving_ms: float, prefill_tokens_per_s: float | None) -> None:
        self.min_saving_ms = min_saving_ms
        self._tokens_per_s = prefill_tokens_per_s
        self.pace = PrefillPace()

    def recompute_ms(self, pages: int, page_tokens: int) -> float | None:
        """How long the engine would take for so many pages of so many tokens; None where that is not known."""
        if self._tokens_per_s is not None:
            return pages * page_tokens / self._tokens_per_s * 1e3
        return self.pace.recompute_ms(pages)

    def declines(self, pages: int, page_tokens: int, load_ms: float | None) -> bool:
        """Whether loading saves less than it must. What is not known is loaded: that is how it gets known."""
        recompute_ms = self.recompute_ms(pages, page_tokens)
        if recompute_ms is None or load_ms is None:
            return False
        return recompute_ms - load_ms < self.min_saving_ms
