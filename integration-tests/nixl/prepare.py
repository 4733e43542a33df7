# SPDX-License-Identifier: Apache-2.0
"""Puts other versions of NIXL beside the pinned one, each in a folder of its own; nox runs this.

Without arguments it is the oldest that is supported; ``--all`` is every version of ``engines.toml``'s list.
"""

from __future__ import annotations

import subprocess
import sys

from nixl_rig.versions import engine, folder_of


def main() -> None:
    described = engine()
    versions = described["all"] if "--all" in sys.argv else [described["oldest"]]
    for version in versions:
        target = folder_of(version)
        if not any(target.glob("nixl_cu12-*.dist-info")):
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
            subprocess.run([*command, f"nixl-cu12=={version}"], check=True)
            print(f"installed NIXL {version} into {target}")


if __name__ == "__main__":
    main()
