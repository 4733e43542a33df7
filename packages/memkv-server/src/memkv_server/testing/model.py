# SPDX-License-Identifier: Apache-2.0
"""Which values may be found under a key. Pure: acknowledgements and ends in, sets of values out.

For each key there is ``now``, what may be found in this process and after its death: an acknowledged put leaves its
value alone in it, an acknowledged delete the miss (None); a put that was under way when the process died may have
happened or not. And there are the ``states`` since the last one that is known to be on the medium, each with the number
of the write that made it. After the power has failed any of them may be found, whatever the order in which they were
made; under ``relaxed`` the miss as well, if there is more than one: of a put that replaced another a part may be there,
and neither is then served.

So nothing comes back that was gone at the last sync, and what was there and was not touched since is there still, in
both durabilities; but for evictions under ``relaxed``: where two segments were given up since the last sync, the older
may be on the medium still and the younger gone, and with it a newer value or a tombstone. Under ``strict`` a sync
stands before each acknowledgement: what was acknowledged is there, or what was put after it, or nothing where it was
deleted after it.

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
Found = set["Value | None"]


@dataclass
class Entry:
    """One key."""

    now: Found = field(default_factory=lambda: {None})
    states: list[tuple[int, Found]] = field(default_factory=lambda: [(0, {None})])
    ever: set[Value] = field(default_factory=set)


class Model:
    """All keys. ``allows`` says whether something that was found is fair."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.writes = 0  # how many there were: a sync covers those up to a number
        self.entries: defaultdict[Hashable, Entry] = defaultdict(Entry)

    def _changed(self, entry: Entry) -> None:
        self.writes += 1
        entry.states.append((self.writes, set(entry.now)))

    def put_begun(self, key: Hashable, value: Value) -> None:
        """A put is under way: it may be found from now on, or not."""
        entry = self.entries[key]
        entry.now.add(value)
        entry.ever.add(value)
        self._changed(entry)

    def put_done(self, key: Hashable, value: Value) -> None:
        """It can be found."""
        entry = self.entries[key]
        entry.now = {value}
        entry.ever.add(value)
        self._changed(entry)

    def delete_begun(self, key: Hashable) -> None:
        """A delete is under way. Or the value may be given up for another reason: evicted, unreadable, damaged."""
        entry = self.entries[key]
        if None not in entry.now:
            entry.now.add(None)
            self._changed(entry)

    def delete_done(self, key: Hashable) -> None:
        """It can no longer be found."""
        entry = self.entries[key]
        entry.now = {None}
        self._changed(entry)

    def may_go_with_power(self, key: Hashable) -> None:
        """Eviction has copied it since the last sync, and may have given up the place it was in."""
        entry = self.entries[key]
        self.writes += 1
        entry.states.append((self.writes, {None, *entry.now}))

    def synced(self, writes: int | None = None) -> None:
        """Everything is on the medium; or the first so many writes."""
        writes = self.writes if writes is None else writes
        for entry in self.entries.values():
            last = max((place for place, state in enumerate(entry.states) if state[0] <= writes), default=0)
            del entry.states[:last]

    def saved(self, keys: Iterable[Hashable]) -> dict[Hashable, Entry]:
        """The entries as they are now, for ``restore`` where nothing came of what was begun."""
        return {key: deepcopy(self.entries[key]) for key in keys}

    def restore(self, saved: Mapping[Hashable, Entry]) -> None:
        """Back to what was saved."""
        self.entries.update(saved)

    def power_lost(self) -> None:
        """The next process finds what the medium holds."""
        for entry in self.entries.values():
            entry.now = set().union(*(state for _, state in entry.states))
            if len(entry.states) > 1 and not self.strict:
                entry.now.add(None)
            entry.states = [(self.writes, set(entry.now))]

    def evictions_undone(self) -> None:
        """The medium may hold a segment that was given up, and no longer a younger one that was given up after it."""
        for entry in self.entries.values():
            if None in entry.now:
                entry.now |= entry.ever
                entry.states = [(self.writes, set(entry.now))]

    def damaged(self) -> None:
        """Something on the medium is damaged: any key may miss, or be back at an older value."""
        for entry in self.entries.values():
            entry.now |= {None, *entry.ever}
            entry.states = [(self.writes, set(entry.now))]

    def settled(self, key: Hashable, found: Value | None, *, power: bool) -> None:
        """After a start this was found under the key, and so it stays; ``power``: the medium holds the same."""
        entry = self.entries[key]
        entry.now = {found}
        if power:
            entry.states = [(self.writes, {found})]
        else:
            self._changed(entry)

    def allows(self, key: Hashable, found: Value | None) -> bool:
        """Whether it may be found now."""
        return found in self.entries[key].now
