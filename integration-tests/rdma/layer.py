# SPDX-License-Identifier: Apache-2.0
"""The user's side of RDMA as a folder: Debian's pyverbs, libibverbs and providers, unpacked and not installed.

The virtual machine lays it over this machine's root, so nothing here is changed. pyverbs lies in a folder of its own,
for PYTHONPATH: the rest of Debian's Python packages stays out of sight.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))
from memkv_rig.vm import download

PACKAGES: Final = (
    *("python3-pyverbs", "ibverbs-providers", "libibverbs1", "librdmacm1"),
    *("libnl-3-200", "libnl-route-3-200", "iproute2", "libbpf1", "libelf1", "libmnl0"),
)
PYTHON_PATH: Final = "/opt/memkv-pyverbs"  # within the layer


def prepare(cache: Path) -> Path:
    """The layer, made if it is not there."""
    layer, stamp = cache / "layer", cache / "packages"
    if stamp.exists() and stamp.read_text() == " ".join(PACKAGES):
        return layer
    shutil.rmtree(cache, ignore_errors=True)
    layer.mkdir(parents=True)
    for package in download(PACKAGES, cache):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(layer)], check=True)
        package.unlink()
    for name in ("lib", "bin", "sbin"):  # links to their namesakes below /usr: a folder must not hide one
        if (layer / name).is_dir():
            shutil.copytree(layer / name, layer / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(layer / name)
    target = layer / PYTHON_PATH.lstrip("/")
    target.mkdir(parents=True)
    shutil.move(layer / "usr/lib/python3/dist-packages/pyverbs", target / "pyverbs")
    stamp.write_text(" ".join(PACKAGES))
    return layer


def unfit(layer: Path) -> str | None:
    """Why this Python cannot import that pyverbs; None if it can."""
    built = {
        found[1]
        for file in (layer / PYTHON_PATH.lstrip("/")).glob("pyverbs/*.so")
        if (found := re.search(r"\.cpython-(\d+)-", file.name))
    }
    this = f"{sys.version_info[0]}{sys.version_info[1]}"
    return None if built == {this} else f"Debian's pyverbs is for Python {', '.join(sorted(built))}, this is {this}"
