# SPDX-License-Identifier: Apache-2.0
"""One line of the doctor's report. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from memkv_core.errors import MemKVError

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """``text`` says what was seen. ``remedy`` what to do; every line that is not ok has one."""

    area: str
    verdict: Verdict
    text: str
    remedy: str | None = None


def of_error(area: str, error: MemKVError) -> Finding:
    """An error that names its own remedy."""
    return Finding(area, "fail", error.cause, error.remedy)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 where something has failed; a warning alone fails nothing."""
    return 1 if any(finding.verdict == "fail" for finding in findings) else 0
