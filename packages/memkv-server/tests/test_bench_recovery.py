# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from memkv_server.bench.recovery import run


@pytest.mark.parametrize("mode", ["file", "direct"])
def test_a_start_is_measured_with_every_record(tmp_path: Path, mode: str) -> None:
    result = run(tmp_path, mode, 5000, 200, 1 << 20)
    for name in ("cached", "cold"):
        assert result[name]["records"] == 5000
        assert result[name]["seconds"] >= result[name]["recovery_seconds"] > 0
    assert result["segments"] > 1
