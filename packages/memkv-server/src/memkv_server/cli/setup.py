# SPDX-License-Identifier: Apache-2.0
"""``memkv setup``: prepares the folders of a node and writes its settings file to stdout."""

from __future__ import annotations

EPILOG = ""


def setup() -> None:
    """Placeholder."""
