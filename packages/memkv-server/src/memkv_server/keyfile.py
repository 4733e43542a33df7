# SPDX-License-Identifier: Apache-2.0
"""The cluster key as text: 64 hex digits, given inline or in a file that only its owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from memkv_core.config import parse_auth_key
from memkv_core.errors import ConfigError
from memkv_core.files import read_regular_file, reason_of
from memkv_core.limits import AUTH_KEY_BYTES
from memkv_core.settings import SettingProblem

FILE_BYTES_MAX: Final = 4096
ACCEPTED: Final = "64 hexadecimal digits, as `memkv keygen` makes them, or the path of a file that holds them"


def generate_key() -> str:
    """A new cluster key: 64 hexadecimal digits of the system's randomness."""
    return secrets.token_hex(AUTH_KEY_BYTES)


def resolve_key(value: object) -> str:
    """The key that a setting gives, inline or as a path. Raises SettingProblem, which never quotes what was given."""
    if isinstance(value, str) and "/" in value:
        path = Path(value.strip())
        try:
            text = read_regular_file(path, FILE_BYTES_MAX).decode("ascii")
        except OSError as error:
            raise SettingProblem(f"key file {path} cannot be read: {reason_of(error)}", ACCEPTED) from None
        except UnicodeDecodeError:
            raise SettingProblem(f"key file {path} is not text", ACCEPTED) from None
        try:
            return parse_auth_key(text)
        except SettingProblem as problem:
            raise SettingProblem(f"in key file {path}, {problem.cause}", problem.accepted) from None
    return parse_auth_key(value)


def read_key_file(path: Path) -> str:
    """The key in ``path``. Raises ConfigError naming the file."""
    try:
        return resolve_key(str(path.absolute()))
    except SettingProblem as problem:
        raise ConfigError(problem.cause, remedy=f"accepted: {problem.accepted}") from None


def write_private(path: Path, text: str) -> None:
    """Writes a new file that only its owner may read. Raises ConfigError where it exists or cannot be written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists already", remedy="choose another name; it is not overwritten") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {reason_of(error)}", remedy="choose another place") from None
