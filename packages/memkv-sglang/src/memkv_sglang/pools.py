# SPDX-License-Identifier: Apache-2.0
"""How much of a prefix is usable when a model keeps more than KV (Mamba, SWA, indexers, drafts). Pure.

``pages`` counts pages from the start of the prompt. A pool's hit policy says where a prefix may end as far as that
pool goes; a prefix is usable where every pool agrees::

    KV             ■ ■ ■ ■ ■ □      ends 1…5
    ALL_PAGES      ■ ■ ■ ■ □ ■      ends 1…4
    TRAILING (1)   □ ■ □ ■ □ □      ends 2, 4          usable ends: 2 and 4; the longest is 4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ALL_PAGES = "all_pages"
TRAILING_PAGES = "trailing_pages"
BLOCK_GROUPS = "block_groups"


@dataclass(slots=True)
class Verdict:
    """What of a prefix is usable, given that the KV of its first ``kv_pages`` pages is there.

    ``ends``: every length in pages at which it may stop, ascending. ``pool_hits``: by pool, the longest end that the
    pool allows by itself; pools that allow none are left out.
    """

    kv_pages: int
    ends: list[int] = field(init=False)
    pool_hits: dict[object, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ends = list(range(1, self.kv_pages + 1))

    @property
    def pages(self) -> int:
        """The longest usable prefix."""
        return self.ends[-1] if self.ends else 0

    def restrict(self, pool: object, policy: str, trailing: int, present: Sequence[bool]) -> None:
        """Takes away the ends that a pool cannot serve; ``present[i]`` says whether it holds page i.

        ``trailing`` is the length of the pool's window in pages. BLOCK_GROUPS restricts nothing, as sglang defines
        it. A policy that is unknown here is taken for the strictest one, ALL_PAGES: a miss is always safe, a prefix
        without its side state is not.
        """
        if policy == BLOCK_GROUPS:
            return
        flags = present[: self.kv_pages]
        allowed = _trailing_ends(flags, max(1, trailing)) if policy == TRAILING_PAGES else _leading_ends(flags)
        if allowed:
            self.pool_hits[pool] = max(allowed)
        self.ends = [end for end in self.ends if end in allowed]


def _leading_ends(flags: Sequence[bool]) -> set[int]:
    run = next((page for page, there in enumerate(flags) if not there), len(flags))
    return set(range(1, run + 1))


def _trailing_ends(flags: Sequence[bool], window: int) -> set[int]:
    """Every end whose last ``window`` pages (all of them, where there are fewer) are there."""
    ends: set[int] = set()
    run = 0
    for page, there in enumerate(flags):
        run = run + 1 if there else 0
        if run >= min(window, page + 1):
            ends.add(page + 1)
    return ends
