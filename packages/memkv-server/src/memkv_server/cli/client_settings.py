# SPDX-License-Identifier: Apache-2.0
"""One setting of the client's chain on its own: an operator's shell need not have the rest of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from memkv_core.settings import UNSET
from memkv_core.yamlfile import read_yaml_mapping


def client_setting(name: str) -> tuple[Any, str]:
    """(value, source) by the client's precedence: the file of MEMKV_CONFIG, then the environment; None where unset."""
    if path := os.environ.get("MEMKV_CONFIG"):
        value = read_yaml_mapping(Path(path), named_by="MEMKV_CONFIG").get(name)
        if value is not None:
            return value, path
    variable = f"MEMKV_{name.upper()}"
    value = os.environ.get(variable) or None
    return value, variable if value is not None else UNSET
