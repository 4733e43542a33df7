# SPDX-License-Identifier: Apache-2.0
"""The version; the same in every package of this repository (a test compares it with the pyproject files)."""

from typing import Final

__version__: Final = "0.1.0"
