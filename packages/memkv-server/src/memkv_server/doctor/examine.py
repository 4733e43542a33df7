# SPDX-License-Identifier: Apache-2.0
"""All that the doctor looks at, in the order in which a cause comes before what it leads to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from memkv_server.doctor.cluster import examine_cluster
from memkv_server.doctor.drives import examine_drives
from memkv_server.doctor.engines import examine_engines
from memkv_server.doctor.finding import Finding
from memkv_server.doctor.machine import examine_machine
from memkv_server.doctor.settings import load_settings


def examine(server_config: Path | None = None) -> Iterator[Finding]:
    """Every finding, as it is made. Raises nothing that is MemKV's: that is a finding too."""
    config, findings = load_settings()
    yield from findings
    if config is not None:
        yield from examine_cluster(config)
    yield from examine_machine(config)
    if server_config is not None:
        yield from examine_drives(server_config)
    yield from examine_engines(os.environ)
