# SPDX-License-Identifier: Apache-2.0
"""These tests run in the machine that ``run.py`` boots, and nowhere else: they take its links down."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))

IN_GUEST = "MEMKV_RDMA_GUEST" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Outside it everything of this folder is skipped, with the reason."""
    for item in items:
        if not IN_GUEST and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs RDMA devices: nox -s rdma brings a machine with two"))
