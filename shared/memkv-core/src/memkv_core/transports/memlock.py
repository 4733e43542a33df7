# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may still lock: registered memory is pinned, and RLIMIT_MEMLOCK bounds that."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Final

_CAP_IPC_LOCK: Final = 14  # with it the limit does not count
REMEDY: Final = "docker: --ulimit memlock=-1 --cap-add=IPC_LOCK; systemd: LimitMEMLOCK=infinity"


def shortfall(needed_bytes: int, limit_bytes: int | None = None, status: str | None = None) -> str | None:
    """Why ``needed_bytes`` more cannot be registered, with the limit that is needed and how to set it; or else None.

    ``limit_bytes`` and ``status`` (the text of ``/proc/self/status``) are those of this process unless given.
    """
    if limit_bytes is None:
        limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit_bytes == resource.RLIM_INFINITY:
        return None
    if status is None:
        status = Path("/proc/self/status").read_text()
    if _field(status, "CapEff", 16) >> _CAP_IPC_LOCK & 1:
        return None
    wanted_bytes = needed_bytes + (_field(status, "VmPin", 10) + _field(status, "VmLck", 10)) * 1024
    if wanted_bytes <= limit_bytes:
        return None
    return (
        f"RLIMIT_MEMLOCK is {limit_bytes} bytes, {wanted_bytes} are needed to register {needed_bytes} more; "
        f"raise it ({REMEDY})"
    )


def _field(status: str, name: str, base: int) -> int:
    found = re.search(rf"^{name}:\s*([0-9a-fA-F]+)", status, re.MULTILINE)
    return int(found[1], base) if found is not None else 0
