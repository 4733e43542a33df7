# SPDX-License-Identifier: Apache-2.0
"""Puts the plugin where NIXL's plugin manager looks: a link in its folder, taken away again, and told of.

An alias is the same plugin under the name of another, for engines that know a fixed list of names. The plugin of that
name which came with NIXL is kept beside it and put back by ``uninstall``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from memkv_core.errors import ConfigError
from memkv_core.files import reason_of
from memkv_nixl import PLUGIN

NAME: Final = "MEMKV"
ALIASES: Final = ("OBJ",)
_KEPT: Final = ".memkv-kept"  # does not end in .so: no plugin to NIXL

State = Literal["ours", "stale", "theirs", "absent"]


@dataclass(frozen=True)
class Place:
    """One name in one folder of plugins, and what is there."""

    name: str
    path: Path
    state: State
    kept: bool = False  # whether NIXL's own plugin of that name is kept beside it


def place_of(plugins: Path, name: str) -> Place:
    """What stands in ``plugins`` under a plugin's name."""
    path = plugins / f"libplugin_{name}.so"
    kept = _kept(path).exists()
    if path.is_symlink() and path.readlink().name == PLUGIN.name:
        return Place(name, path, "ours" if path.exists() and path.samefile(PLUGIN) else "stale", kept)
    return Place(name, path, "theirs" if os.path.lexists(path) else "absent", kept)


def install(plugins: Path, aliases: Iterator[str] | tuple[str, ...] = ()) -> list[Place]:
    """Links the plugin into a folder, and under each alias. Idempotent. Raises ConfigError."""
    require_plugin()
    names = [NAME, *_checked(aliases)]
    try:
        for name in names:
            _link(place_of(plugins, name))
    except OSError as error:
        raise ConfigError(
            f"{plugins} cannot be written: {reason_of(error)}",
            remedy='leave it as it is and use eval "$(memkv-nixl env)" instead',
        ) from error
    return [place_of(plugins, name) for name in names]


def uninstall(plugins: Path) -> list[Place]:
    """Takes the plugin and its aliases away; puts back what they stood for. Idempotent. Raises ConfigError."""
    found = [place_of(plugins, name) for name in (NAME, *ALIASES)]
    try:
        for place in found:
            if place.state in ("ours", "stale"):
                place.path.unlink()
                if place.kept:
                    _kept(place.path).rename(place.path)
    except OSError as error:
        raise ConfigError(f"{plugins} cannot be written: {reason_of(error)}", remedy="run as its owner") from error
    return [place_of(plugins, place.name) for place in found]


def require_plugin() -> None:
    """Raises ConfigError where this package lacks its plugin, as an unbuilt working tree does."""
    if not PLUGIN.is_file():
        raise ConfigError(f"{PLUGIN} is not there", remedy="install the wheel, or run native/build.py in the tree")


def _checked(aliases: Iterator[str] | tuple[str, ...]) -> list[str]:
    names = [alias.upper() for alias in aliases]
    for name in names:
        if name not in ALIASES:
            raise ConfigError(f"alias {name!r}", remedy=f"accepted: {', '.join(ALIASES)}")
    return names


def _kept(path: Path) -> Path:
    return path.with_name(path.name + _KEPT)


def _link(place: Place) -> None:
    if place.state == "ours":
        return
    if place.state == "theirs":
        place.path.rename(_kept(place.path))
    fresh = place.path.with_name(f"{place.path.name}.memkv-{os.getpid()}")
    fresh.symlink_to(PLUGIN)
    fresh.rename(place.path)  # at once: a process that starts meanwhile finds the old or the new
