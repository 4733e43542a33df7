# SPDX-License-Identifier: Apache-2.0
"""Keys as text: an engine's key may be any bytes, a terminal and a URL take printable ones.

Printable ASCII stands for itself, a backslash for two, every other byte for ``\\xNN``. What is printed can be
given back.
"""

from __future__ import annotations

import re
from typing import Final

from memkv_core.errors import InvalidArgumentError
from memkv_core.limits import KEY_BYTES_MAX

_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|\\|.?)", re.DOTALL)


def key_text(key: bytes) -> str:
    """The text of a key."""
    return "".join(_character(byte) for byte in key)


def parse_key(text: str) -> bytes:
    """The key of a text; a character beyond ASCII is its UTF-8 bytes. InvalidArgumentError for another escape."""
    return _ESCAPE.sub(_unescaped, text.encode(errors="surrogateescape"))


def checked_key(text: str) -> bytes:
    """The same for a whole key. InvalidArgumentError also where it is empty or too long."""
    key = parse_key(text)
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise InvalidArgumentError(f"a key of {len(key)} bytes", remedy=f"give 1 to {KEY_BYTES_MAX}")
    return key


def _character(byte: int) -> str:
    if byte == 0x5C:
        return "\\\\"
    return chr(byte) if 0x21 <= byte <= 0x7E else f"\\x{byte:02x}"


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code == b"\\":
        return code
    if len(code) != 3:
        raise InvalidArgumentError(
            f"{match[0].decode(errors='replace')!r} in a key is no escape",
            remedy="write \\xNN for a byte, \\\\ for a backslash",
        )
    return bytes([int(code[1:], 16)])
