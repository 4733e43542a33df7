# SPDX-License-Identifier: Apache-2.0
"""What is shipped to deploy MemKV with: looked at by the tools that will read it, and tried on real nodes."""

from __future__ import annotations

import sys
from pathlib import Path

# importlib mode leaves them out, so that test files may share names
sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
sys.path.insert(0, str(Path(__file__).parent))
