# SPDX-License-Identifier: Apache-2.0
"""The drives of a node without one of them, in the order that leaves most keys where they are. Pure.

A key's lane follows from the number of lanes, and a lane's drives from the order of the settings: drive i belongs to
lane i modulo the number of lanes. Without one drive there may be one lane less. The keys of the last lane then go to
all others, and each other lane keeps its keys, so each drive should keep its lane: where the one that leaves is not of
the last lane, a drive of that lane takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memkv_core.errors import ConfigError
from memkv_server.config import DriveConfig, ServerConfig


def without_drive(config: ServerConfig, path: Path) -> ServerConfig:
    """The settings without the drive at ``path``; every other keeps its capacity. Raises ConfigError."""
    drives = config.storage.drives
    if config.storage.mode == "memory" or not any(drive.path.absolute() == path for drive in drives):
        raise ConfigError(f"{path} is no drive of these settings", remedy="name one of storage.drives")
    if len(drives) == 1:
        raise ConfigError(f"{path} is the only drive of the node", remedy="add another one first")
    kept = [
        (index % config.lane_count, DriveConfig(path=drive.path, capacity=capacity))
        for index, (drive, capacity) in enumerate(zip(drives, config.capacities(), strict=True))
        if drive.path.absolute() != path
    ]
    lane_count = min(config.lane_count, len(kept))
    ordered = arrange([lane for lane, _ in kept], lane_count)
    storage = config.storage.model_copy(
        update={"drives": tuple(kept[position][1] for position in ordered), "capacity": None}
    )
    lanes = lane_count if config.lanes is not None else None
    return config.model_copy(update={"storage": storage, "lanes": lanes})


def arrange(lanes: Sequence[int], lane_count: int) -> list[int]:
    """An order of drives, given the lane each is in now, in which most are dealt into the lane that they are in."""
    left = list(range(len(lanes)))
    chosen: list[int | None] = []
    for place in range(len(lanes)):
        same = next((position for position in left if lanes[position] == place % lane_count), None)
        chosen.append(same)
        if same is not None:
            left.remove(same)
    rest = iter(left)
    return [position if position is not None else next(rest) for position in chosen]
