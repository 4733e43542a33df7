# SPDX-License-Identifier: Apache-2.0
"""What is told where pyverbs does not work; whether it works is for ``integration-tests/rdma``."""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path

import pytest

from memkv_core.transports import pyverbs_load
from memkv_core.transports.verbs import DeviceUnavailableError

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
BUILT = (
    "/usr/lib/x86_64-linux-gnu/libibverbs.so.1: version `IBVERBS_PRIVATE_59' not found (required by "
    "/venv/lib/python3.11/site-packages/pyverbs/device.so)\nand more"
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ModuleNotFoundError("No module named 'pyverbs'", name="pyverbs"),
            "RDMA needs pyverbs, which is not installed",
        ),
        (ModuleNotFoundError("no", name="pyverbs.device"), f"pyverbs is not built for Python {VERSION}; use the distr"),
        (ImportError(BUILT), "pyverbs was built for rdma-core 59, and this host's libibverbs is of another; install"),
        (ImportError("libibverbs.so.1: cannot open shared object file"), "libibverbs is not installed; install lib"),
        (ImportError("something\nelse"), "pyverbs cannot be imported: something; install Debian's python3-pyverbs"),
        (ImportError(), "pyverbs cannot be imported: ImportError; "),
    ],
)
def test_one_line_and_a_remedy(error: ImportError, told: str) -> None:
    explained = str(pyverbs_load.explain(error))
    assert explained.startswith(told)
    assert "\n" not in explained
    assert "; " in explained


def test_the_release_of_the_library() -> None:
    maps = "7f00-7f01 r-xp 0 00:1 2 /usr/lib/x86_64-linux-gnu/libibverbs.so.1.14.44.0\n"
    assert pyverbs_load.rdma_core_version(maps) == "44"
    assert pyverbs_load.rdma_core_version("") == "unknown"


def test_no_pyverbs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "pyverbs", raising=False)
    with pytest.raises(DeviceUnavailableError, match="pyverbs, which is not installed"):
        pyverbs_load.load_modules()


def test_the_root_logger_is_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "pyverbs"
    package.mkdir()
    configures = (
        "import logging\nlogging.getLogger().addHandler(logging.NullHandler())\nlogging.getLogger().setLevel(1)\n"
    )
    (package / "__init__.py").write_text(configures)
    for name in ("device", "pd", "mr", "cq", "qp", "wr", "addr"):
        (package / f"{name}.py").touch()
    (package / "pyverbs_error.py").write_text("class PyverbsError(Exception): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "pyverbs"]:
        monkeypatch.delitem(sys.modules, name)
    before = logging.getLogger().handlers[:], logging.getLogger().level
    modules = pyverbs_load.load_modules()
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
    assert isinstance(modules.device, types.ModuleType)
    assert issubclass(modules.error, Exception)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyverbs"]:
        del sys.modules[name]
