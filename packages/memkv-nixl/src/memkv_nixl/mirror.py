# SPDX-License-Identifier: Apache-2.0
"""A folder of plugins of one's own, for a NIXL whose folder cannot be written: NIXL's plugins, and ours.

NIXL_PLUGIN_DIR names one folder, in place of NIXL's own. Its plugins find their libraries relative to where they lie
(``$ORIGIN/..`` and ``$ORIGIN/../../nixl_cu12.libs``), so the tree around them is mirrored with links::

    <cache>/memkv/nixl/<digest>/
        .nixl_cu12.mesonpy.libs/  *.so ─► the installed ones    plugins/  *.so ─► the installed ones, and ours
        nixl_cu12.libs ─► the installed folder
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from memkv_core.errors import ConfigError
from memkv_core.files import reason_of
from memkv_nixl._compat import NixlBuild
from memkv_nixl.links import install


def cache_folder() -> Path:
    """Where mirrors are kept: XDG_CACHE_HOME, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memkv" / "nixl"


def mirror(build: NixlBuild, aliases: tuple[str, ...] = (), *, cache: Path | None = None) -> Path:
    """Makes (again) the mirror of a NIXL build and returns its folder of plugins. Raises ConfigError."""
    digest = hashlib.sha256(f"{build.libraries}\n{build.version}\n{aliases}".encode()).hexdigest()[:16]
    target = (cache or cache_folder()) / digest
    fresh = target.with_name(f"{digest}.{os.getpid()}")
    try:
        _make(build, fresh)
        plugins = fresh / build.libraries.name / "plugins"
        install(plugins, aliases)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be made: {reason_of(error)}", remedy="name another folder in XDG_CACHE_HOME"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target / build.libraries.name / "plugins"


def _make(build: NixlBuild, folder: Path) -> None:
    libraries = folder / build.libraries.name
    (libraries / "plugins").mkdir(parents=True)
    for source in (build.libraries, build.plugins):
        for path in source.iterdir():
            if path.is_file():
                (libraries / path.relative_to(build.libraries)).symlink_to(path.resolve())
    bundled = build.libraries.parent / f"{build.module}.libs"
    if bundled.is_dir():
        (folder / bundled.name).symlink_to(bundled)
