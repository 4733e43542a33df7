# SPDX-License-Identifier: Apache-2.0
"""Hatchling's hook: compiles the plugin and puts it into the wheel, which so is one for a platform and any Python 3."""

from __future__ import annotations

import platform
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PluginHook(BuildHookInterface):  # type: ignore[type-arg]
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        build = runpy.run_path(str(root / "native" / "build.py"))
        name = build["PLUGIN_NAME"]
        if version == "editable":  # the package's own folder is what is loaded
            build["build_plugin"](root / "src/memkv_nixl/plugins" / name)
            return
        library = build["build_plugin"](root / "build" / name)
        build_data["force_include"][str(library)] = f"memkv_nixl/plugins/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_28_{platform.machine()}"
