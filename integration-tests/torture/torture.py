# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a real node, over and over, under concurrent puts, deletes and gets of real clients.

    nox -s torture -- [--loops 200] [--modes file,direct] [--durabilities relaxed,strict] [--seed N] [--dir DIR]

Each loop loads the node for 100 to 300 ms, kills all its processes, starts it again on the same store and looks at
every key. The capacity is such that nothing is evicted, which is asserted: whatever was acknowledged must be there.
Prints a table of what was done and found; exit status 1 where anything was lost, a phantom or corrupt.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from node import Credentials, Node
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from memkv_core import Client
from memkv_core.testing.witness import Verdict, Witness

CAPACITY_BYTES = 256 << 20
SEGMENT_BYTES = 4 << 20
LOAD_S = (0.1, 0.3)
KEPT_FREE_BYTES = 5 * SEGMENT_BYTES  # eviction begins when the last segment but one is in use
ROOM_BYTES_MIN = 48 << 20  # for a loop: where less is left a new store is begun, before anything has to be evicted
MODES = ("file", "direct")
DURABILITIES = ("relaxed", "strict")


@dataclass
class Case:
    """One mode in one durability."""

    mode: str
    durability: str
    loops: int = 0
    stores: int = 0
    start_s: list[float] = field(default_factory=list)
    found: Verdict = field(default_factory=Verdict)

    @property
    def failed(self) -> bool:
        """Whether anything was wrong, or nothing was tried."""
        return bool(self.found.wrong or not self.found.checked)


class Torture:
    """The loops of one case. A store lives through many of them."""

    def __init__(self, case: Case, folder: Path, credentials: Credentials, rng: random.Random) -> None:
        self.case = case
        self._folder = folder
        self._credentials = credentials
        self._rng = rng
        self._flags = ["--mode", case.mode, "--durability", case.durability]
        self._flags += ["--capacity", str(CAPACITY_BYTES), "--segment-size", str(SEGMENT_BYTES)]
        self._begin()

    def _begin(self) -> None:
        self.case.stores += 1
        self._store = self._folder / f"{self.case.mode}-{self.case.durability}-{self.case.stores}"
        self._witness = Witness(self._client, self._rng.getrandbits(32), room_bytes=CAPACITY_BYTES - KEPT_FREE_BYTES)
        self._node = self._start()

    def _client(self) -> Client:
        return self._node.client()

    def _start(self) -> Node:
        started_s = time.monotonic()
        node = Node(self._store, self._credentials, self._flags)
        self.case.start_s.append(time.monotonic() - started_s)
        return node

    def loop(self) -> None:
        """Load, kill, start, look."""
        if self._witness.room_bytes < ROOM_BYTES_MIN:
            self.end()
            self._begin()
        pids = self._node.pids()

        def kill() -> None:
            time.sleep(self._rng.uniform(*LOAD_S))
            self._node.kill(pids)

        self.case.found += self._witness.run(kill)
        self._node = self._start()
        self.case.found += self._witness.sweep()
        self.case.loops += 1

    def end(self) -> None:
        """Stops the node and removes the store."""
        self._node.stop()
        shutil.rmtree(self._store, ignore_errors=True)


def table_of(cases: list[Case]) -> Table:
    """What was done and found."""
    table = Table(title="kill -9 under load")
    for name in ("mode", "durability"):
        table.add_column(name)
    for name in ("kills", "stores", "acknowledged", "checked", "read", "lost", "corrupt", "phantom", "start s"):
        table.add_column(name, justify="right")
    for case in cases:
        found = case.found
        numbers = (case.loops, case.stores, found.acknowledged, found.checked, found.reads)
        wrong = (found.lost, found.corrupt, found.phantom)
        start_s = sorted(case.start_s)[len(case.start_s) // 2] if case.start_s else 0.0
        table.add_row(case.mode, case.durability, *(f"{number:,}" for number in numbers + wrong), f"{start_s:.2f}")
    return table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="torture")
    parser.add_argument("--loops", type=int, default=200, help="kills, over all cases")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--durabilities", default=",".join(DURABILITIES))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--dir", type=Path, help="where the stores lie; default: a temporary folder")
    return parser.parse_args()


def main() -> int:
    """0: nothing wrong; 1: something was."""
    given = arguments()
    console = Console(width=max(110, Console().width))
    logging.getLogger("memkv_core").setLevel(logging.CRITICAL)  # that a killed node does not answer is no news here
    console.print(f"seed {given.seed}: repeat with --seed {given.seed}")
    cases = [Case(mode, durability) for mode in given.modes.split(",") for durability in given.durabilities.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="memkv-torture-", dir=given.dir))
    try:
        credentials = Credentials(folder / "credentials")
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            for number, case in enumerate(cases):
                loops = (given.loops + number) // len(cases) if len(cases) > 1 else given.loops
                task = progress.add_task(f"{case.mode} {case.durability}", total=loops)
                torture = Torture(case, folder, credentials, random.Random(f"{given.seed} {number}"))
                try:
                    for _ in range(loops):
                        torture.loop()
                        progress.advance(task)
                finally:
                    torture.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table_of(cases))
    for case in cases:
        for sample in case.found.samples:
            console.print(f"{case.mode} {case.durability}: {sample}", style="red")
    return int(any(case.failed for case in cases))


if __name__ == "__main__":
    sys.exit(main())
