# SPDX-License-Identifier: Apache-2.0
"""The dashboard in a real browser, on real nodes under a real load."""

from __future__ import annotations

import sys
from pathlib import Path

# importlib mode leaves them out, so that test files may share names
sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
sys.path.insert(0, str(Path(__file__).parent))
