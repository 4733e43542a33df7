# SPDX-License-Identifier: Apache-2.0
"""The boundary to a host: whatever happens inside, the host gets a value it can use, never an exception or a None.

One ``Guard`` per adapter module, one decorated method per entry point; adapters have no try/except of their own::

    GUARD = Guard("memkv_sglang")

    @GUARD.guarded(miss=False)
    def set(self, key, value): ...

    @GUARD.guarded(miss=lambda self, keys, *rest, **more: [False] * len(keys))
    def batch_get_v1(self, keys, ...): ...

KeyboardInterrupt, SystemExit and the like (no ``Exception``) pass through: the host is being stopped.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from memkv_core.errors import (
    AuthError,
    ClientClosedError,
    ConfigError,
    InvalidArgumentError,
    LicenseError,
    MemKVError,
    ProtocolError,
    RefusedError,
)
from memkv_core.limits import LOG_INTERVAL_S
from memkv_core.log import RateLimitedLog, get_logger, mask_secrets
from memkv_core.metrics.clients import COUNTS

F = TypeVar("F", bound=Callable[..., Any])

CAUSES: Final = ("miss", "timeout", "unreachable", "corrupt", "refused", "error")

# The first match counts, so the narrower classes come first (an AuthError is also a ConnectionError).
_CAUSE_OF: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (AuthError, "refused"),
    (RefusedError, "refused"),
    (LicenseError, "refused"),
    (ConfigError, "error"),
    (InvalidArgumentError, "error"),
    (ClientClosedError, "error"),
    (ProtocolError, "unreachable"),  # whatever answers there, it is no MemKV server one can use
    (TimeoutError, "timeout"),
    (ConnectionError, "unreachable"),
    (OSError, "unreachable"),
)


def cause_of(error: BaseException) -> str:
    """One of CAUSES: how an exception is counted. What MemKV does not raise on purpose is an "error"."""
    return next((cause for kind, cause in _CAUSE_OF if isinstance(error, kind)), "error")


class Guard:
    """Counts and logs what it catches. Thread-safe; a call that succeeds takes no lock and under a microsecond."""

    def __init__(
        self,
        name: str,
        *,
        interval_s: float = LOG_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._log = RateLimitedLog(get_logger(name), interval_s=interval_s, clock=clock)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(CAUSES, 0)
        COUNTS.add_guard(self)

    def count(self, cause: str, times: int = 1) -> None:
        """Adds to a cause of CAUSES; for an adapter that sees a miss as a value (``guard.count("miss", 3)``)."""
        with self._lock:
            self._counts[cause] += times

    def counts(self) -> dict[str, int]:
        """What was counted since the start, by cause; a copy."""
        with self._lock:
            return dict(self._counts)

    def guarded(self, miss: Any) -> Callable[[F], F]:
        """A decorator that turns any exception, and a result of None, into ``miss``.

        ``miss`` is an immutable value, or is called with the arguments of the call to make one. Where even that
        fails (``keys`` is no list) the result is an empty list: the host asked with something that has no length.
        A ``miss`` of None lets the function return None.
        """
        if isinstance(miss, list | dict | set | bytearray):
            raise TypeError(f"miss is a {type(miss).__name__} that callers would share; give a callable that makes one")

        def decorate(function: F) -> F:
            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                try:
                    result = function(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 -- the one place that may: a host must not see any
                    self._caught(function.__name__, error)
                else:
                    if result is not None or miss is None:
                        return result
                    self._returned_none(function.__name__)
                return self._miss(miss, args, kwargs)

            return cast("F", call)

        return decorate

    def _miss(self, miss: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not callable(miss):
            return miss
        try:
            return miss(*args, **kwargs)
        except Exception:  # noqa: BLE001 -- wrong arguments, which the call itself has just been logged for
            return []

    def _caught(self, where: str, error: Exception) -> None:
        cause = cause_of(error)
        self.count(cause)
        expected = isinstance(error, MemKVError | OSError)
        # What nobody expected is a bug: the first line of its kind brings the stack along.
        self._log.log(
            logging.WARNING if expected else logging.ERROR,
            f"{where}:{type(error).__name__}",
            "%s gave a miss (%s): %s: %s",
            where,
            cause,
            type(error).__name__,
            _words(error),
            exc_info=None if expected else error,
        )

    def _returned_none(self, where: str) -> None:
        self.count("error")
        self._log.error(f"{where}:None", "%s returned None, which its host cannot take; it gave a miss", where)


_shared = Guard("memkv_core.guard")


def guarded(miss: Any, *, guard: Guard | None = None) -> Callable[[F], F]:
    """``Guard.guarded`` of ``guard``, or of one that this process shares."""
    return (guard or _shared).guarded(miss)


def _words(error: Exception) -> str:
    """One line of an exception, without secrets, whatever its __str__ does."""
    try:
        return mask_secrets(" ".join(str(error).split()))[:500]
    except Exception:  # noqa: BLE001 -- a broken __str__ of a host's exception
        return "(no text)"
