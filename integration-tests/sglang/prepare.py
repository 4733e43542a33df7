# SPDX-License-Identifier: Apache-2.0
"""Puts the CPU shim into the environment of the interpreter that runs this; nox does so after the engine's install."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

MODULE = "sglang_cpu_shim"


def main() -> None:
    site = Path(sysconfig.get_path("purelib"))
    shutil.copyfile(Path(__file__).with_name("cpu_shim.py"), site / f"{MODULE}.py")
    # The name sorts last, so that every other .pth has been read.
    (site / f"zz_{MODULE}.pth").write_text(f"import {MODULE}\n")
    print(f"installed {MODULE} into {site}")


if __name__ == "__main__":
    main()
