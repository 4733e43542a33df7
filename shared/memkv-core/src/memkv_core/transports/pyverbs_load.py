# SPDX-License-Identifier: Apache-2.0
"""Imports pyverbs, once and late, or says in one line why it cannot be had.

pyverbs belongs to one release of rdma-core and to one version of Python: the practical one is the distribution's
(``docs/rdma.md``). Its import configures the root logger; that is taken back.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from memkv_core.transports.verbs import DeviceUnavailableError

_NAMES: Final = ("device", "pd", "mr", "cq", "qp", "wr", "addr", "pyverbs_error")
_INSTALL: Final = "install Debian's python3-pyverbs and ibverbs-providers, see docs/rdma.md"


class Modules(NamedTuple):
    """The parts of pyverbs that are used, and the rdma-core that they stand on. Everything in them is untyped."""

    device: Any
    pd: Any
    mr: Any
    cq: Any
    qp: Any
    wr: Any
    addr: Any
    error: type[Exception]
    version: str


def load_modules() -> Modules:
    """DeviceUnavailableError names what is missing or does not fit."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        modules = [importlib.import_module(f"pyverbs.{name}") for name in _NAMES]
    except ImportError as error:
        raise explain(error) from error
    finally:
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)
        root.setLevel(level)
    *parts, errors = modules
    device, pd, mr, cq, qp, wr, addr = parts
    version = rdma_core_version(Path("/proc/self/maps").read_text())
    return Modules(device, pd, mr, cq, qp, wr, addr, errors.PyverbsError, version)


def rdma_core_version(maps: str) -> str:
    """The release of rdma-core whose libibverbs is mapped, from its file's name; "unknown" where that has none."""
    found = re.search(r"/libibverbs\.so\.1\.\d+\.(\d+)", maps)
    return found[1] if found is not None else "unknown"


def explain(error: ImportError) -> DeviceUnavailableError:
    """In one line, with the remedy."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name == "pyverbs":
        return DeviceUnavailableError("RDMA needs pyverbs, which is not installed", remedy=_INSTALL)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("pyverbs."):
        return DeviceUnavailableError(
            f"pyverbs is not built for Python {sys.version_info[0]}.{sys.version_info[1]}",
            remedy="use the distribution's Python with its python3-pyverbs, see docs/rdma.md",
        )
    locked = re.search(r"IBVERBS_(?:PRIVATE_)?([0-9.]+)' not found", text)
    if locked is not None:
        return DeviceUnavailableError(
            f"pyverbs was built for rdma-core {locked[1]}, and this host's libibverbs is of another",
            remedy=f"{_INSTALL}; the pyverbs of PyPI needs its own rdma-core",
        )
    if "libibverbs.so.1" in text or "librdmacm.so.1" in text:
        return DeviceUnavailableError(
            "libibverbs is not installed", remedy="install libibverbs1, librdmacm1 and ibverbs-providers"
        )
    return DeviceUnavailableError(f"pyverbs cannot be imported: {text}", remedy=_INSTALL)
