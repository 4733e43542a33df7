# SPDX-License-Identifier: Apache-2.0
"""Figures as they travel: one JSON file for each part of a run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memkv_server.bench.machine import describe_load, describe_machine, describe_versions


@dataclass
class Curve:
    """One line of a picture: medians of what was measured at each x, and all of it."""

    name: str
    samples: dict[int, list[float]] = field(default_factory=dict)  # x -> seconds, or bytes a second
    note: str = ""  # what is measured, or why it is not
    high: dict[int, float] = field(default_factory=dict)  # x -> p99, where there is one

    def points(self) -> list[tuple[float, float]]:
        return [(x, statistics.median(values)) for x, values in sorted(self.samples.items()) if values]


def save(path: Path, about: Mapping[str, Any], curves: Sequence[Curve]) -> None:
    """Replaces the file; curves of other names that are in it stay, so that a part can be run in pieces.

    ``about`` has a ``command``, perhaps ``versions`` of what was measured; the machine is added.
    """
    versions = "; ".join(filter(None, (about.get("versions"), describe_versions())))
    kept: list[dict[str, Any]] = []
    if path.exists():
        names = {curve.name for curve in curves}
        kept = [curve for curve in json.loads(path.read_text())["curves"] if curve["name"] not in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{describe_machine()}, {describe_load()}"
    described = {**about, "versions": versions, "machine": machine, "curves": [*kept, *map(asdict, curves)]}
    path.write_text(json.dumps(described, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Any], list[Curve]]:
    """What ``save`` wrote."""
    described: dict[str, Any] = json.loads(path.read_text())
    curves = []
    for each in described.pop("curves"):
        each["samples"] = {int(x): values for x, values in each["samples"].items()}
        each["high"] = {int(x): value for x, value in each["high"].items()}
        curves.append(Curve(**each))
    return described, curves
