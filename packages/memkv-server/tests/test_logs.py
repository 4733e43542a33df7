# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from memkv_core.log import protect
from memkv_server import events, logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_lines_for_a_console(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    protect("supersecretkey")
    logging.getLogger("memkv.x").info("key is %s", "supersecretkey")
    logging.getLogger("memkv.x").debug("not shown")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("Z INFO  memkv.x: key is ****\n")


def test_lines_of_json(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json")
    try:
        raise ValueError("reason")
    except ValueError:
        logging.getLogger("memkv.x").exception('said "hello"\nand more')
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["level"], line["logger"], line["message"]) == ("error", "memkv.x", 'said "hello"\nand more')
    assert "ValueError: reason" in line["exception"]


def test_events_have_a_name_and_fields(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("memkv.x")
    logs.configure("info", "json")
    events.event(logger, "lane_ready", "lane ready", lane=0, records=5, time="taken")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["lane"], line["records"]) == ("lane_ready", 0, 5)
    assert line["message"] == "lane ready lane=0 records=5 time=taken"
    assert line["time"] != "taken", "a field took the place of the line's own"
    logs.configure("info", "console")
    events.event(logger, "drive_offline", "a drive is out", path="/a b", cause="I/O\nerror")
    assert capsys.readouterr().err.endswith("memkv.x: a drive is out path='/a b' cause='I/O\\nerror'\n")


@pytest.mark.parametrize("format", ["console", "json"])
def test_secrets_are_masked_wherever_they_stand(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    protect("supersecretkey")
    logs.configure("info", format)
    logger = logging.getLogger("memkv.x")
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    try:
        raise ValueError(f"bad key supersecretkey or {token}")
    except ValueError:
        logger.exception("it failed")
    events.event(logger, "session_error", "closed", cause=f"supersecretkey {token}", peer="p")
    text = capsys.readouterr().err
    assert "supersecretkey" not in text
    assert "c2lnbmF0dXJl" not in text
    assert text.count("****") >= 4


def test_no_place_can_fill_a_disk() -> None:
    now_s = 0.0
    limit = logs.BurstFilter(lambda: now_s)

    def line(place: int) -> logging.LogRecord:
        return logging.LogRecord("x", logging.INFO, "f.py", place, "said %d", (1,), None)

    assert sum(limit.filter(line(1)) for _ in range(1000)) == logs.BURST
    assert limit.filter(line(2)), "another place is another matter"
    now_s = logs.INTERVAL_S
    record = line(1)
    assert limit.filter(record)
    assert record.getMessage() == f"said 1 ({1000 - logs.BURST} more like this were not logged)"
