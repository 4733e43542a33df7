# SPDX-License-Identifier: Apache-2.0
"""Makes vLLM's CPU build work in the environment of the interpreter that runs this; nox does so after the install.

It takes away torchvision, torchaudio and torchcodec, which vLLM asks for: an index may have them only for the CUDA
build of torch, and then importing one fails ("operator torchvision::nms does not exist"), and with it transformers. A
text model uses none of them. And it puts the shim for LMCache's in-process mode in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

MODULE = "lmcache_cpu_shim"


def main() -> None:
    unwanted = ["torchvision", "torchaudio", "torchcodec"]
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", *unwanted], check=True)
    site = Path(sysconfig.get_path("purelib"))
    shutil.copyfile(Path(__file__).with_name("cpu_shim.py"), site / f"{MODULE}.py")
    # The name sorts last, so that every other .pth has been read.
    (site / f"zz_{MODULE}.pth").write_text(f"import {MODULE}\n")
    print(f"installed {MODULE} into {site}")


if __name__ == "__main__":
    main()
