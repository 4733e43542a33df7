# SPDX-License-Identifier: Apache-2.0
"""``python -m memkv_server.testing.simulate [--steps N] [--profile NAME] [SEED ...]``: many histories, seed by seed.

Without a seed one is drawn. Prints each seed with its steps, its faults and the steps a second; ends with 1 at the
first seed whose histories break a promise, and shows the shortest such history that hypothesis finds.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import traceback

from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test
from rich.console import Console

from memkv_server.testing.lives import Tally
from memkv_server.testing.simulation import PROFILES, Simulation, history_settings

HISTORY_STEPS = 60
STEPS = 50_000
_PART = 1 << 32  # a seed's histories come in parts, until there were steps enough


def run(seed: int, steps: int, profiles: tuple[str, ...] = PROFILES, *, shrink: bool = True) -> Tally:
    """Histories from one seed: so many steps, evenly over the profiles. Raises what went wrong in one."""
    tally = Tally()
    for number, profile in enumerate(profiles, 1):
        until = steps * number // len(profiles)
        while tally.steps < until:
            machine = type("Seeded", (Simulation,), {"tally": tally, "profile": profile})
            histories = (until - tally.steps) // HISTORY_STEPS + 1
            seeded(seed)(machine)
            run_state_machine_as_test(machine, settings=history_settings(histories, HISTORY_STEPS, shrink=shrink))
            seed += _PART
    return tally


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="simulate")
    parser.add_argument("seeds", nargs="*", type=int, metavar="SEED")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"for each seed; default {STEPS}")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="default: all")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what a damaged store says at its start is no news here
    console = Console()
    for seed in given.seeds or [random.SystemRandom().randrange(_PART)]:
        started_s = time.monotonic()
        try:
            tally = run(seed, given.steps, tuple(given.profile or PROFILES))
        except Exception:  # noqa: BLE001  whatever it was, the seed is what is wanted
            console.print(traceback.format_exc(), markup=False, highlight=False)
            console.print(f"seed {seed} fails: repeat with `nox -s simulate -- {seed}`", style="red")
            return 1
        elapsed_s = time.monotonic() - started_s
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.injected.items()))
        console.print(f"seed {seed}: {tally.steps} steps, {tally.steps / elapsed_s:.0f}/s; injected: {counted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
