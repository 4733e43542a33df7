# SPDX-License-Identifier: Apache-2.0
"""mkdocs' hooks: pages that come from elsewhere than ``docs/`` are added to the site while it is built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SITE = Path(__file__).parent


def on_files(files: Files, *, config: Any) -> Files:
    """The reference, made from the code, and the protocol, which lies with its vectors."""
    if str(SITE) not in sys.path:  # mkdocs takes back what a hook puts there while it is loaded
        sys.path.insert(0, str(SITE))
    import messages
    import reference

    pages = {
        "reference/settings.md": reference.settings_page(),
        "reference/commands.md": reference.commands_page(),
        "reference/admin.md": reference.admin_page(),
        "reference/messages.md": messages.page(),
        "protocol.md": (SITE.parents[1] / "shared/protocol/wire.md").read_text(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files
