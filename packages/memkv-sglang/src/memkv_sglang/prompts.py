# SPDX-License-Identifier: Apache-2.0
"""The file that ``memkv-sglang warm`` reads: one prompt a line, as text or as token ids. Pure but for the reading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkv_core.errors import ConfigError

_ACCEPTED = 'a JSON text, a list of token ids, or an object with "text", "prompt" or "input_ids" (and "lora_path")'


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line: what goes into the body of sglang's ``/generate``."""

    line: int
    body: dict[str, Any]


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The prompts of a JSONL file in their order; blank lines are skipped.

    Raises ConfigError naming file and line for one that is no prompt, or where the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield Prompt(number, _body(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}", remedy="give a JSONL file of prompts") from error


def _body(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {number}: no JSON ({error.msg})", remedy=f"write {_ACCEPTED}") from None
    if isinstance(value, str | list):
        value = {"text" if isinstance(value, str) else "input_ids": value}
    if isinstance(value, dict) and "prompt" in value:
        prompt = value.pop("prompt")
        value["text" if isinstance(prompt, str) else "input_ids"] = prompt
    if not isinstance(value, dict) or not (_is_text(value.get("text")) ^ _is_ids(value.get("input_ids"))):
        raise ConfigError(f"{path}, line {number}: no prompt", remedy=f"write {_ACCEPTED}")
    return {name: value[name] for name in ("text", "input_ids", "lora_path", "extra_key") if name in value}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)
