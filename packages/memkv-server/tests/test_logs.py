# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from memkv_core.log import protect
from memkv_server import logs


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
