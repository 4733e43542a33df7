# SPDX-License-Identifier: Apache-2.0
"""The storage node of MemKV."""

from __future__ import annotations

__version__ = "0.1.0"
