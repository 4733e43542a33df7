# SPDX-License-Identifier: Apache-2.0
"""MemKV for NIXL: ``libplugin_MEMKV.so``, a storage backend of NIXL 1.x, and what puts it where NIXL looks.

memkv-nixl install                                    # links the plugin into the installed nixl's folder
agent.create_backend("MEMKV", {"namespace": "fleet"})   # servers, key and license come from MEMKV_*
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__version__ = "0.1.0"

PLUGIN: Final = Path(__file__).parent / "plugins" / "libplugin_MEMKV.so"
"""The plugin. NIXL takes a plugin's name from its file's, so that links of other names to it are aliases."""
