# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from memkv_core.log import protect
from memkv_server.events import event
from memkv_server.limits import PROBLEM_TEXT_MAX
from memkv_server.problems import ProblemLog


@pytest.fixture
def kept() -> ProblemLog:
    return ProblemLog(count_max=3)


@pytest.fixture
def logger(kept: ProblemLog) -> logging.Logger:
    found = logging.getLogger("memkv.test.problems")
    found.handlers[:], found.propagate = [kept], False
    return found


def test_what_matters_is_kept_the_latest_first(kept: ProblemLog, logger: logging.Logger) -> None:
    logger.info("nothing of note")
    logger.warning("first")
    event(logger, "drive_offline", "the drive is taken out of service", logging.ERROR, path="/a", cause="EIO")
    latest = kept.latest()
    assert [(each["text"], each["level"], each["event"], each["cause"]) for each in latest] == [
        ("/a: the drive is taken out of service", "error", "drive_offline", "EIO"),
        ("first", "warning", None, None),
    ]


def test_a_flood_of_one_kind_is_counted_and_pushes_nothing_out(kept: ProblemLog, logger: logging.Logger) -> None:
    logger.warning("rare")
    for number in range(50):
        event(logger, "session_error", f"connection {number}", logging.WARNING, cause="protocol", peer=str(number))
    counts = [(each["text"], each["count"]) for each in kept.latest()]
    assert counts == [("connection 49", 50), ("rare", 1)]


def test_problems_of_one_event_are_told_apart_by_what_they_are_about(kept: ProblemLog, logger: logging.Logger) -> None:
    for path in ("/a", "/b", "/a", "/c", "/d"):
        event(logger, "record_corrupt", "a record is dropped", logging.WARNING, path=path)
    assert [each["text"].partition(":")[0] for each in kept.latest()] == ["/d", "/c", "/a"], "no more than three"


def test_no_secret_and_no_endless_text_is_kept(kept: ProblemLog, logger: logging.Logger) -> None:
    protect("opensesame-opensesame")
    logger.warning("with opensesame-opensesame %s", "x" * 5000)
    (problem,) = kept.latest()
    assert "opensesame" not in problem["text"]
    assert len(problem["text"]) == PROBLEM_TEXT_MAX
    kept.handle(logging.LogRecord("memkv.test", logging.WARNING, __file__, 1, "%d", ("no number",), None))
    assert len(kept.latest()) == 1, "a line whose format is wrong is the log's own affair"
