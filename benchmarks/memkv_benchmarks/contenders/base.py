# SPDX-License-Identifier: Apache-2.0
"""The seam: what every contender does, and what it gets."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.uint8]  # shape (blocks, bytes of a block), contiguous
READY_S = 60.0


class ContenderError(Exception):
    """It cannot be measured, or did not do what it was asked to; one line."""


class Contender(Protocol):
    """A store, or a yardstick, and a client of it. Used by one thread. ``close`` ends its servers."""

    synthetic: bool  # a yardstick that keeps nothing: its bytes are not compared, ``exists`` means nothing

    def versions(self) -> str:
        """What is measured, with versions."""

    def prepare(self, source: Blocks, target: Blocks) -> None:
        """The memory of all rounds to come: puts read the rows of ``source``, gets fill the rows of ``target``."""

    def put(self, keys: Sequence[str]) -> float | None:
        """Stores row i under key i. Raises ContenderError where one is not stored.

        Returns how many seconds that took where it was not the time of this call.
        """

    def get(self, keys: Sequence[str]) -> float | None:
        """Reads key i into row i. Raises ContenderError where one is missing. Returns as ``put`` does."""

    def exists(self, keys: Sequence[str]) -> int:
        """How many of the keys are there."""

    def forget(self, keys: Sequence[str]) -> None:
        """Deletes keys, as far as this store can: outside of what is measured."""

    def close(self) -> None:
        """Ends what was started."""


class Server:
    """A child process that listens on a port of 127.0.0.1. Raises ContenderError where it does not."""

    def __init__(self, command: Sequence[str], port: int, **environment: str) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **environment} if environment else None,
            )
        except OSError as error:
            raise ContenderError(f"{command[0]}: {error.strerror}; install it") from None
        try:
            wait_for_port(port, self._process, command[0])
        except ContenderError:
            self.close()
            raise

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Until something accepts there."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise ContenderError(f"{name} ended with code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise ContenderError(f"{name} does not listen on port {port}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
