# SPDX-License-Identifier: Apache-2.0
"""Spans of time in settings: ``90s``, ``30m``, ``12h``, ``7d``, or seconds as a number."""

from __future__ import annotations

import re
from typing import Final

from memkv_core.settings import SettingProblem

DURATION: Final = "seconds, or 90s, 30m, 12h, 7d, 2w; at most 10 years"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TEXT: Final = re.compile(r"(\d{1,10})\s*([smhdw]?)", re.IGNORECASE)
_SECONDS_MAX: Final = 10 * 366 * 86_400


def parse_duration(value: object) -> int:
    """Whole seconds, at least one. Raises SettingProblem."""
    match = (
        _TEXT.fullmatch(str(value).strip()) if isinstance(value, str | int) and not isinstance(value, bool) else None
    )
    if match is None:
        raise SettingProblem("it is no span of time", DURATION)
    seconds = int(match[1]) * _UNITS[match[2].lower() or "s"]
    if not 1 <= seconds <= _SECONDS_MAX:
        raise SettingProblem("it is too short or too long", DURATION)
    return seconds
