# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/dashboard.md, from two nodes that are at work for some minutes.

python integration-tests/dashboard/screenshots.py docs/pictures --minutes 15
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))

from dashboard_rig.browser import DESKTOP, PHONE, Visit, browser
from dashboard_rig.load import Load
from memkv_rig.cluster import Cluster
from PIL import Image

from memkv_core import Client, ClientConfig
from memkv_core.auth import admin_token

COLOURS = 128  # as many as anybody sees on it, at a third of the size
PICTURES = {"light": (DESKTOP, "light"), "dark": (DESKTOP, "dark"), "phone": (PHONE, "light")}


def main() -> None:
    """Starts a cluster, loads it, and takes the pictures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--minutes", type=float, default=15)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="memkv-") as folder:
        cluster = Cluster(Path(folder), nodes=2, capacity="192MiB")
        try:
            settings = {name.removeprefix("MEMKV_").lower(): value for name, value in cluster.env.items()}
            with Load({**settings, "transport": "tcp"}):
                time.sleep(60 * given.minutes)
                with Client(ClientConfig.load(**{**settings, "auth_key": "0" * 64})) as stranger:
                    stranger.exists(["somebody's"])
                token = admin_token(bytes.fromhex((Path(folder) / "auth.key").read_text().strip()))
                take(given.folder, cluster.nodes[0]["admin"], token)
        finally:
            cluster.down()


def take(folder: Path, admin: str, token: str) -> None:
    """The pictures of a cluster that is at work."""
    folder.mkdir(exist_ok=True)
    with browser() as started:
        for name, (size, scheme) in PICTURES.items():
            visit = Visit(started, admin, size, scheme)
            page = visit.login(token)
            visit.wait_for_points()
            page.wait_for_timeout(4500)
            taken = Image.open(BytesIO(page.screenshot(full_page=name == "light"))).convert("RGB")
            taken.quantize(COLOURS).save(folder / f"dashboard-{name}.png", optimize=True)
            visit.close()


if __name__ == "__main__":
    main()
