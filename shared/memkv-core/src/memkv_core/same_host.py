# SPDX-License-Identifier: Apache-2.0
"""What client and node compare to find out that they run on one host, without either naming it to the other."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of this start of this kernel; the same in its containers


def host_digest(salt: bytes) -> str:
    """64 hexadecimal digits that are the same for every process on this host until it is started again.

    ``salt`` is the key id of the cluster. Empty where the kernel does not say: then no two processes share a host.
    """
    try:
        boot_id = _BOOT_ID.read_bytes().strip()
    except OSError:
        return ""
    return hashlib.sha256(b"memkv host v1" + salt + boot_id).hexdigest()
