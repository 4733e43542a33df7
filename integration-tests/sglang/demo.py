# SPDX-License-Identifier: Apache-2.0
"""The whole of it in two minutes: a node, a real sglang engine on the CPU, and a second engine that need not compute.

Run it with ``nox -s demo``, which installs what it needs. The model is tiny and random, its answers are noise; what
counts is that the second engine gives the same noise without having computed its prompts.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # torch's threads fight over a small machine
sys.path.append(str(Path(__file__).parents[1] / "rig"))

from memkv_rig.cluster import Cluster
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sglang_rig.checkpoint import prompt, write_checkpoint
from sglang_rig.engine import EngineProcess, Generation, engine_arguments

PROMPTS, TOKENS = 4, 2048
WARM_UP_TOKENS = 64  # shorter than anything sglang asks its storage for
STEPS = 3 + 2 * (PROMPTS + 2)

Say = Callable[[str], None]


def run_engine(name: str, model: Path, cluster: Cluster, log: Path, say: Say) -> list[Generation]:
    """One engine process from start to end: the prompts, one after the other."""
    say(f"{name} engine: starting, half a minute or so")
    engine = EngineProcess(engine_arguments(model, {}, max_total_tokens=16384), cluster.env, log)
    try:
        engine.generate(prompt(999, WARM_UP_TOKENS), new_tokens=2)
        generations = []
        for number in range(PROMPTS):
            say(f"{name} engine: prompt {number + 1} of {PROMPTS}")
            generations.append(engine.generate(prompt(number, TOKENS)))
        say(f"{name} engine: storing and stopping")
        engine.flush()
        return generations
    finally:
        engine.stop()


def run(folder: Path, say: Say) -> tuple[list[Generation], list[Generation]]:
    """Both engines on one cluster: what the first and the second gave."""
    say("starting a node")
    cluster = Cluster(folder / "cluster", capacity="1GiB")
    try:
        say("writing a tiny random model")
        model = write_checkpoint(folder / "model", hidden=512, layers=4, heads=8)
        first = run_engine("first", model, cluster, folder / "first.log", say)
        second = run_engine("second", model, cluster, folder / "second.log", say)
        say("stopping the node")
        return first, second
    finally:
        cluster.down()


def table_of(first: list[Generation], second: list[Generation], *, equal: bool) -> Table:
    """A row for each engine."""
    table = Table(title=f"sglang on the CPU, {PROMPTS} prompts of {TOKENS} tokens, two processes one after the other")
    for column in ("engine", "tokens asked", "tokens from MemKV", "computed", "time to first token", "outputs"):
        table.add_column(column, justify="left" if column in ("engine", "outputs") else "right")
    for name, runs, outputs in (("first", first, "-"), ("second", second, "equal" if equal else "DIFFERENT")):
        asked, stored = sum(each.prompt_tokens for each in runs), sum(each.from_storage for each in runs)
        computed = asked - sum(each.cached_tokens for each in runs)
        first_token_ms = 1000 * statistics.median(each.first_token_s for each in runs)
        table.add_row(name, f"{asked:,}", f"{stored:,}", f"{computed:,}", f"{first_token_ms:,.0f} ms", outputs)
    return table


def main() -> int:
    """0 when the second engine was given its prompts by MemKV and answered as the first did."""
    folder = Path(tempfile.mkdtemp(prefix="memkv-demo-"))
    error = show(folder)
    if error is None:
        shutil.rmtree(folder)
        return 0
    Console(stderr=True, highlight=False).print(f"demo: {error}; the logs are in {folder}", markup=False)
    return 1


def show(folder: Path) -> str | None:
    """Runs it with a progress bar and prints the table; what went wrong, or None."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=STEPS)

        def say(what: str) -> None:
            if not progress.console.is_terminal:
                progress.console.print(what)
            progress.update(task, description=what, advance=1)

        try:
            first, second = run(folder, say)
        except RuntimeError as error:
            return str(error)
    equal = [each.output_ids for each in first] == [each.output_ids for each in second]
    Console().print(table_of(first, second, equal=equal))
    if not equal:
        return "the outputs differ"
    return None if all(each.from_storage for each in second) else "the second engine had nothing from MemKV"


if __name__ == "__main__":
    sys.exit(main())
