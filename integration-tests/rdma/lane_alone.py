# SPDX-License-Identifier: Apache-2.0
"""A lane with RDMA devices and a listener, in a process of its own: a node without its supervisor, which takes an
emulated machine half a minute to start.

    python lane_alone.py FOLDER PORT MODE DEVICES       (says its port, and ends with its standard input)
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from memkv_core.transports.library import load_verbs
from memkv_server.engine import DriveSet
from memkv_server.rdma import RdmaSource
from memkv_server.testing.local_lane import LocalLane

KEY = "a1" * 32
BOUNCE_BYTES = 8 << 20


def main(folder: str, port: str, mode: str, devices: str) -> None:
    """Serves until there is no more to read."""
    logging.basicConfig(level=logging.INFO)

    def open_source(engine: DriveSet) -> RdmaSource:
        return RdmaSource.open(devices.split(","), engine.fixed_memory(), BOUNCE_BYTES, load_verbs)

    lane = LocalLane(Path(folder), bytes.fromhex(KEY), rdma=open_source, mode=mode, port=int(port))
    sys.stdout.write(f"memkv node ready address={lane.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    lane.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
