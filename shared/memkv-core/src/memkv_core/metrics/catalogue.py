# SPDX-License-Identifier: Apache-2.0
"""A metric's name, kind, labels and words, said once: exporters and the documentation are made from tables of these.

A name in a table is an interface: it keeps its meaning, its unit and its labels as long as the major version does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
_NAME: Final = re.compile(r"memkv(_[a-z]+)+")
_COUNTER: Final = re.compile(r".*_total")


@dataclass(frozen=True)
class Metric:
    """One metric, as it is exposed: a counter's name ends in ``_total``; units are base units."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or bool(_COUNTER.fullmatch(self.name)) != (self.kind == "counter"):
            raise ValueError(f"{self.name} is no name for a {self.kind}")

    @property
    def stem(self) -> str:
        """The name without ``_total``, as libraries want it that add it themselves."""
        return self.name.removesuffix("_total")

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its samples."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (self.name,)


@dataclass(frozen=True)
class Section:
    """Metrics that are about the same thing."""

    title: str
    metrics: tuple[Metric, ...]


def by_name(sections: Iterable[Section]) -> dict[str, Metric]:
    """Every metric of a table. ValueError where a name stands in it twice."""
    table: dict[str, Metric] = {}
    for section in sections:
        for metric in section.metrics:
            if metric.name in table:
                raise ValueError(f"{metric.name} stands twice in the table")
            table[metric.name] = metric
    return table


def markdown(sections: Sequence[Section], level: int = 3) -> str:
    """The table as headings and tables of Markdown."""
    lines: list[str] = []
    for section in sections:
        lines += [f"{'#' * level} {section.title}", "", "| Metric | Kind | Labels | What it is |"]
        lines += ["| --- | --- | --- | --- |"]
        for metric in section.metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |")
        lines.append("")
    return "\n".join(lines)
