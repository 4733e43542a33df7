# SPDX-License-Identifier: Apache-2.0
"""Reads one yaml settings file: a mapping of text keys, or a ConfigError that quotes none of it.

(yaml's own error texts quote the offending line, which may be the one with the key in it.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from memkv_core.errors import ConfigError
from memkv_core.files import read_regular_file, reason_of
from memkv_core.limits import CONFIG_BYTES_MAX


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where plain yaml silently takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str):
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, "a key is given twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml_mapping(path: Path, *, named_by: str) -> dict[str, Any]:
    """The mapping in the file ``path``; ``named_by`` says who named it (``MEMKV_CONFIG``). Empty file: {}."""
    remedy = f"correct the file, or what {named_by} names"
    try:
        text = read_regular_file(path, CONFIG_BYTES_MAX).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} ({named_by}) cannot be read: {reason_of(error)}", remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} ({named_by}) is not UTF-8 text at byte {error.start}", remedy=remedy) from None
    try:
        loaded = yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} ({named_by}) is not valid yaml{_where(error)}", remedy=remedy) from None
    except (RecursionError, ValueError):  # nested thousands deep; a date such as 2026-99-99
        raise ConfigError(f"{path} ({named_by}) holds a value that yaml cannot build", remedy=remedy) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} ({named_by}) holds a {type(loaded).__name__}, not `key: value` lines", remedy=remedy)
    for key in loaded:
        if not isinstance(key, str):
            raise ConfigError(f"{path} ({named_by}): key {key!r} is not text", remedy="quote the key or remove it")
    return loaded


def _where(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return ""
    mark = error.problem_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {error.problem}" if error.problem in _QUOTABLE else place


# Only texts that quote nothing of the file.
_QUOTABLE = ("a key is given twice", "mapping values are not allowed here", "found unexpected end of stream")
