# SPDX-License-Identifier: Apache-2.0
"""A store on a drive that fails, over random histories; ``nox -s simulate`` runs more of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest

from memkv_server.testing.simulate import run

STEPS = 12_000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A damaged store says so at each start, some thousand times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
def test_no_promise_is_broken_in_ten_thousand_steps() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}: repeat with `nox -s simulate -- {seed}`")  # noqa: T201  pytest shows it beneath a failure
    tally = run(seed, STEPS, shrink=False)  # that takes minutes: `simulate` does
    assert tally.steps >= 10_000
    assert set(tally.injected) == {"die", "cut", "write_back", "eio", "flip", "bad page"}
