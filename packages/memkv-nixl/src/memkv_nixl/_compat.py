# SPDX-License-Identifier: Apache-2.0
"""The only code that knows of an installed NIXL: where its wheels put things, and its Python API.

``nixl`` is a wheel of a few files that picks one of ``nixl_cu12``, ``nixl_cu13``, ...; beside each of these lies a
folder ``.nixl_cu12.mesonpy.libs`` with its libraries and, in ``plugins``, what its plugin manager finds by name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memkv_core.errors import ConfigError

MODULES: Final = ("nixl_cu13", "nixl_cu12", "nixl_rocm")  # the order in which nixl itself looks
TESTED: Final = (
    "1.0.0", "1.0.1", "1.1.0", "1.2.0", "1.3.0", "1.3.1", "1.3.2", "1.4.0", "1.4.1", "1.5.0", "1.5.1",
)  # fmt: skip


@dataclass(frozen=True)
class NixlBuild:
    """One of NIXL's wheels, as installed."""

    module: str
    version: str
    libraries: Path  # the folder that holds libnixl.so and plugins/

    @property
    def plugins(self) -> Path:
        return self.libraries / "plugins"

    @property
    def supported(self) -> bool:
        """Whether its interface to plugins is the one of NIXL 1.x."""
        return self.version.split(".")[0] == "1"


def installed_builds() -> list[NixlBuild]:
    """The NIXL wheels in this interpreter's environment, in the order in which nixl looks."""
    found = []
    for module in MODULES:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        libraries = Path(spec.origin).parent.parent / f".{module}.mesonpy.libs"
        if (libraries / "plugins").is_dir():
            found.append(NixlBuild(module, importlib.metadata.version(module.replace("_", "-")), libraries))
    return found


def require_builds() -> list[NixlBuild]:
    """As ``installed_builds``, of which there must be one. Raises ConfigError."""
    builds = installed_builds()
    if not builds:
        raise ConfigError(
            f"no NIXL wheel ({', '.join(MODULES)}) is installed for this Python",
            remedy="run this with the Python that NIXL is installed for, or name the folder with --plugins",
        )
    return builds


def load_api(build: NixlBuild) -> Any:
    """NIXL's Python API (``nixl_agent``, ``nixl_agent_config``). Raises ConfigError where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NIXL's own modules
            return importlib.import_module(f"{build.module}._api")
    except ImportError as error:
        remedy = "install torch beside it" if error.name == "torch" else "see `pip check`"
        raise ConfigError(f"NIXL {build.version} cannot be imported: {error}", remedy=remedy) from error
