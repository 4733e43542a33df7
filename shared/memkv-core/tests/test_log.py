# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import threading

import pytest

from memkv_core.limits import LOG_KEYS_MAX
from memkv_core.log import RateLimitedLog, get_logger, mask_secrets, protect


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_line_per_key_and_interval(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limited = RateLimitedLog(get_logger("memkv_test"), interval_s=10, clock=clock)
    assert limited.warning("a", "first %s", 1)
    assert not limited.warning("a", "second")
    assert not limited.warning("a", "third")
    assert limited.warning("b", "other key")
    clock.now += 10
    assert limited.error("a", "fourth %s", "x")
    clock.now += 10
    assert limited.warning("a", "fifth")
    assert [record.getMessage() for record in caplog.records] == [
        "first 1",
        "other key",
        "fourth x (2 more like this were not logged)",
        "fifth",
    ]
    assert caplog.records[2].levelno == logging.ERROR


def test_keys_are_bounded() -> None:
    limited = RateLimitedLog(logging.getLogger("memkv_test"), clock=Clock())
    for number in range(3 * LOG_KEYS_MAX):
        limited.log(logging.DEBUG, str(number), "x")
    assert len(limited._seen) == LOG_KEYS_MAX


def test_threads_log_once(caplog: pytest.LogCaptureFixture) -> None:
    limited = RateLimitedLog(get_logger("memkv_test"), clock=Clock())
    threads = [threading.Thread(target=lambda: limited.warning("k", "line")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1
    assert limited._seen["k"][1] == 7


def test_secrets_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    secret = "0123456789abcdef" * 4
    protect(secret)
    protect("short")
    logger = get_logger("memkv_test.secrets")
    assert get_logger("memkv_test.secrets") is logger
    assert len(logger.filters) == 1
    logger.warning("key=%s token=%s short", secret, "eyJhbGciOiJFZERTQSJ9.eyJhIjoxfQ.c2ln")
    logger.warning("nothing to hide in %d", 7)
    assert [record.getMessage() for record in caplog.records] == [
        "key=**** token=**** short",
        "nothing to hide in 7",
    ]
    assert mask_secrets(f"<{secret}>") == "<****>"


def test_a_wrong_format_string_does_not_raise_in_the_filter() -> None:
    logger = get_logger("memkv_test.secrets")
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%d", ("text",), None)
    assert logger.filter(record)
