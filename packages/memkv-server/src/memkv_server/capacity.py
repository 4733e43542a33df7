# SPDX-License-Identifier: Apache-2.0
"""A capacity as it is written: bytes, or per cent of a drive. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import ByteSize, TypeAdapter, ValidationError

from memkv_core.settings import SettingProblem

SIZE: Final = "bytes, or 512MiB, 4GiB, 2TiB"
SIZE_OR_SHARE: Final = f"{SIZE}; or 100%: of a device, or of what is free where a folder is"

_BYTE_SIZE: Final = TypeAdapter(ByteSize)


@dataclass(frozen=True)
class Share:
    """A capacity in per cent: of a device, or of what is free on a folder's filesystem."""

    percent: float

    def __str__(self) -> str:
        return f"{self.percent:g}%"


def parse_capacity(value: Any) -> int | Share:
    """A setting's value. Raises SettingProblem."""
    if isinstance(value, Share):
        return value
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            percent = float(value.strip()[:-1])
        except ValueError:
            percent = 0.0
        if not 0 < percent <= 100:
            raise SettingProblem("it is no share", "1% to 100%")
        return Share(percent)
    try:
        size = int(_BYTE_SIZE.validate_python(value))
    except ValidationError:
        raise SettingProblem("it is no size", SIZE_OR_SHARE) from None
    if size <= 0:
        raise SettingProblem("it is not above zero", SIZE_OR_SHARE)
    return size
