# SPDX-License-Identifier: Apache-2.0
"""Puts other versions of NIXL beside the pinned one, each in a folder of its own; nox runs this.

python prepare.py [VERSION ...]         without any, it is the oldest that is supported
"""

from __future__ import annotations

import subprocess
import sys

from nixl_rig.versions import engine, folder_of


def main() -> None:
    for version in sys.argv[1:] or [engine()["oldest"]]:
        target = folder_of(version)
        if not any(target.glob("nixl_cu12-*.dist-info")):
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
            subprocess.run([*command, f"nixl-cu12=={version}"], check=True)
            print(f"installed NIXL {version} into {target}")


if __name__ == "__main__":
    main()
