# SPDX-License-Identifier: Apache-2.0
"""``python -m memkv_server`` is the ``memkv`` command."""

from __future__ import annotations

from memkv_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
