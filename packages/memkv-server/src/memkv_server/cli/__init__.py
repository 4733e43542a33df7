# SPDX-License-Identifier: Apache-2.0
"""The ``memkv`` command. ``main`` is its one error boundary: one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

from memkv_server.cli.boundary import main

__all__ = ["main"]
