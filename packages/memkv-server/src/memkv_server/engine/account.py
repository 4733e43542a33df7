# SPDX-License-Identifier: Apache-2.0
"""What a namespace holds of one drive, and what it may. Pure numbers: the index keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """What a namespace may hold, and how long; None: whatever there is room for. Pure data."""

    match: str = "*"  # a name, or a pattern of fnmatch
    quota_bytes: int | None = None  # of whole records, headers and padding included
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The first that matches a name is the one that counts."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Rules:
        """From rows of ``match``, ``quota_bytes`` and ``ttl_s``, as in a lane's start message."""
        return cls(tuple(Rule(row["match"], row["quota_bytes"], row["ttl_s"]) for row in rows))

    def rule_for(self, name: str) -> Rule:
        """The rule of a namespace; one without bounds where none matches."""
        return next((rule for rule in self.rules if fnmatchcase(name, rule.match)), Rule(name))

    def share(self, part: int, whole: int) -> Rules:
        """The same for a drive that takes so much of the keys: a part of each quota."""
        return Rules(
            tuple(
                Rule(rule.match, None if rule.quota_bytes is None else rule.quota_bytes * part // whole, rule.ttl_s)
                for rule in self.rules
            )
        )

    @property
    def ttl_s_min(self) -> int | None:
        """The shortest; None where no rule has one."""
        return min((rule.ttl_s for rule in self.rules if rule.ttl_s is not None), default=None)


class Account:
    """Live records and bytes of one namespace in one epoch, and its bounds.

    ``ages`` is there only where there is a quota or a TTL: every live record by its key's hash with the second it was
    written in, in the order in which they were.
    """

    __slots__ = ("ages", "bytes", "expired_records", "hash", "over_quota_records", "quota_bytes", "records", "ttl_s")

    def __init__(self, namespace_hash: int, rule: Rule | None = None) -> None:
        self.hash = namespace_hash
        self.records = 0
        self.bytes = 0
        self.quota_bytes = rule.quota_bytes if rule is not None else None
        self.ttl_s = rule.ttl_s if rule is not None else None
        bounded = self.quota_bytes is not None or self.ttl_s is not None
        self.ages: OrderedDict[bytes, int] | None = OrderedDict() if bounded else None
        self.expired_records = 0  # since the start
        self.over_quota_records = 0

    @property
    def trimmed(self) -> bool:
        """Whether records of it may be on the drive that are not in the index, and would be found with other bounds."""
        return self.expired_records > 0 or self.over_quota_records > 0
