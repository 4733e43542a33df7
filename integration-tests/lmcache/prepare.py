# SPDX-License-Identifier: Apache-2.0
"""Puts the newest LMCache beside the pinned one, where only the tests that ask for it look; nox runs this.

Both run on the same dependencies. The folder is ``lmcache-newest`` in the environment of this interpreter.
"""

from __future__ import annotations

import subprocess
import sys

from lmcache_rig.versions import NEWEST, engines


def main() -> None:
    version = engines("lmcache")["newest"]
    if (NEWEST / f"lmcache-{version}.dist-info").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(NEWEST)]
    subprocess.run([*command, f"lmcache=={version}"], check=True)
    print(f"installed LMCache {version} into {NEWEST}")


if __name__ == "__main__":
    main()
