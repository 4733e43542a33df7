# SPDX-License-Identifier: Apache-2.0
"""Hatchling's hook: the built documentation goes into the source archive and the wheel, where there is one.

``nox -s build`` makes it, in ``build/site``; a source archive has it in ``site``. A build without it is a wheel whose
``memkv doc`` says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SiteHook(BuildHookInterface):  # type: ignore[type-arg]
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folders = [Path(self.root) / "build" / "site", Path(self.root) / "site"]
        folder = next((folder for folder in folders if (folder / "index.html").is_file()), None)
        if folder is not None and version != "editable":
            build_data["force_include"][str(folder)] = "memkv_server/site" if self.target_name == "wheel" else "site"
