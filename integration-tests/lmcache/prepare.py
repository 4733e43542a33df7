# SPDX-License-Identifier: Apache-2.0
"""Puts the newest LMCache, and NIXL, beside the pinned LMCache, where only the tests that ask for them look; nox runs
this.

All run on the same dependencies. The folders are in the environment of this interpreter: see ``lmcache_rig.versions``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lmcache_rig.versions import NEWEST, NIXL, engines


def main() -> None:
    _install(NEWEST, f"lmcache=={engines('lmcache')['newest']}")
    nixl = engines("nixl")["version"]
    _install(NIXL, f"nixl-cu12=={nixl}", f"nixl=={nixl}")


def _install(folder: Path, *wanted: str) -> None:
    """``wanted``: the first stands for all of them when it comes to whether they are there."""
    name, version = wanted[0].split("==")
    if (folder / f"{name.replace('-', '_')}-{version}.dist-info").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*command, *wanted], check=True)
    print(f"installed {', '.join(wanted)} into {folder}")


if __name__ == "__main__":
    main()
