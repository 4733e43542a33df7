# SPDX-License-Identifier: Apache-2.0
"""Flags of a command as a layer of settings."""

from __future__ import annotations

from typing import Any


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """``flags`` without what was not given: None, and sections with nothing in them."""
    kept: dict[str, Any] = {}
    for name, value in flags.items():
        inner = given(value) if isinstance(value, dict) else value
        if inner is not None and inner != {}:
            kept[name] = inner
    return kept
