# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys

from memkv_server.processes import is_running, start_ticks, stop


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_process_is_known_by_pid_and_start() -> None:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    assert is_running(os.getpid(), ticks)
    assert not is_running(os.getpid(), ticks + 1)


def test_stop_ends_it_and_a_zombie_counts_as_gone() -> None:
    with sleeper() as process:
        ticks = start_ticks(process.pid)
        assert ticks is not None
        assert stop(process.pid, ticks, signum=signal.SIGTERM, wait_s=30)
        assert start_ticks(process.pid) is None  # not yet waited for, and gone all the same
        assert process.wait() == -signal.SIGTERM


def test_another_process_with_that_pid_is_left_alone() -> None:
    with sleeper() as process:
        ticks = start_ticks(process.pid)
        assert ticks is not None
        assert stop(process.pid, ticks - 1, signum=signal.SIGKILL, wait_s=0)
        assert process.poll() is None
        process.kill()


def test_waiting_without_a_signal_has_an_end() -> None:
    with sleeper() as process:
        ticks = start_ticks(process.pid)
        assert ticks is not None
        assert not stop(process.pid, ticks, signum=None, wait_s=0.05)
        process.kill()
