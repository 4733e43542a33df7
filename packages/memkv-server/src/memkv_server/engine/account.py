# SPDX-License-Identifier: Apache-2.0
"""What a namespace holds of one drive. Pure numbers: the index keeps them."""

from __future__ import annotations


class Account:
    """Live records and bytes of one namespace in one epoch, headers and padding included."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0
