# SPDX-License-Identifier: Apache-2.0
"""Which values may be found under a key. Pure: acknowledgements and ends in, sets of values out.

For each key two sets are kept, in which None stands for a miss:

* ``now``: what may be found in this process and after its death. An acknowledged put leaves its value alone in it, an
  acknowledged delete the miss alone. A put that was under way when the process died may have happened or not.
* ``after_cut``: what may be found after the power has failed. It begins with what was there at the last sync that
  completed, and gains every value and every delete since: they may have reached the medium, or not, in any order. It
  gains the miss with them, since of a put that replaced another only a part may be there, and neither is then served.

So nothing ever comes back that was gone at the last sync, and what was there and was not touched since is there
still, in both durabilities. Under ``strict`` a sync stands before each acknowledgement: what was acknowledged is there,
unless another put or a delete of the same key was under way.

Damage (flipped bits, unreadable pages) may take a value away, and may take away what hid an older one: a tombstone or
a newer value in a segment that cannot be read. Then a value may come back that was acknowledged under this key once;
never one that was not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

Value = tuple[int, int]  # what the bytes are made from; which they are is the caller's


@dataclass
class Entry:
    """One key."""

    now: set[Value | None] = field(default_factory=lambda: {None})
    after_cut: set[Value | None] = field(default_factory=lambda: {None})
    ever: set[Value] = field(default_factory=set)


class Model:
    """All keys. ``find`` says whether something that was found is fair."""

    def __init__(self) -> None:
        self.entries: defaultdict[Hashable, Entry] = defaultdict(Entry)

    def put_begun(self, key: Hashable, value: Value) -> None:
        """A put is under way: it may be found from now on, or not."""
        entry = self.entries[key]
        entry.now.add(value)
        entry.after_cut |= {value, None}
        entry.ever.add(value)

    def put_done(self, key: Hashable, value: Value) -> None:
        """It was acknowledged."""
        self.put_begun(key, value)
        self.entries[key].now = {value}

    def delete_begun(self, key: Hashable) -> None:
        """A delete is under way. Or the value may be given up for another reason: evicted, unreadable, damaged."""
        entry = self.entries[key]
        entry.now.add(None)
        entry.after_cut.add(None)

    def delete_done(self, key: Hashable) -> None:
        """It was acknowledged."""
        self.delete_begun(key)
        self.entries[key].now = {None}

    def may_go_with_power(self, key: Hashable) -> None:
        """Eviction has copied it elsewhere since the last sync, and may have given up the place it was in."""
        self.entries[key].after_cut.add(None)

    def synced(self) -> None:
        """Everything up to here is on the medium."""
        for entry in self.entries.values():
            entry.after_cut = set(entry.now)

    def saved(self, keys: Iterable[Hashable]) -> dict[Hashable, Entry]:
        """The entries as they are now, for ``restore`` where nothing came of what was begun."""
        return {key: deepcopy(self.entries[key]) for key in keys}

    def restore(self, saved: Mapping[Hashable, Entry]) -> None:
        """Back to what was saved."""
        self.entries.update(saved)

    def power_lost(self) -> None:
        """The next process finds what the medium holds."""
        for entry in self.entries.values():
            entry.now = set(entry.after_cut)

    def damaged(self) -> None:
        """Something on the medium is damaged: any key may miss, or be back at an older value."""
        for entry in self.entries.values():
            entry.now |= {None, *entry.ever}
            entry.after_cut |= {None, *entry.ever}

    def settled(self, key: Hashable, found: Value | None, *, power: bool) -> None:
        """After a start this was found under the key, and so it stays; ``power``: the medium holds the same."""
        entry = self.entries[key]
        entry.now = {found}
        if power:
            entry.after_cut = {found}

    def allows(self, key: Hashable, found: Value | None) -> bool:
        """Whether it may be found now."""
        return found in self.entries[key].now
