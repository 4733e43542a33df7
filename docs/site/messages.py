# SPDX-License-Identifier: Apache-2.0
"""Every message that the Python packages can end with or log as a warning, read from their sources: for the site.

A message is the text of a typed error or of a log line at WARNING and above; what is filled in is shown as ``...``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Heading, what to make of it, and the names of the calls whose first text it is.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Settings and command lines": (
        "What is being started does not start; exit code 2. After *accepted*: what a setting takes.",
        ("ConfigError", "MissingSettingError", "SettingProblem"),
    ),
    "License": ("Client and node verify a license before anything connects.", ("LicenseError",)),
    "Arguments of a call": (
        "A program that uses the client gave what no cluster could take.", ("InvalidArgumentError", "ClientClosedError")
    ),
    "Drives and lanes": (
        "In a node's log and in its answers to `memkv admin` and `memkv drive`. A drive's keys are misses meanwhile.",
        ("StorageError", "NoRoomError", "UnreadableError"),
    ),
    "The way to a node": (
        "The cause of a miss, in an engine's log after `server ... is not used for now`; it is used again by itself.",
        ("ConnectError", "DisconnectedError", "TransportTimeoutError", "PoolTimeoutError"),
    ),
    "RDMA and shared memory": (
        "The transport is not used, or not for this server; blocks go by TCP.",
        (
            "VerbsError", "CapacityError", "DeviceUnavailableError", "RegistrationError", "NotSharedError",
            "MoverUnavailableError",
        ),
    ),
    "What is said on the wire": (
        (
            "The session is ended and made anew. More than once: something else listens there or sits between, or "
            "releases are far apart; compare them with `memkv doctor`."
        ),
        ("RemoteProtocolError", "AuthError", "RefusedError", "LocalProtocolError"),
    ),
    "Warnings in a log": (
        ("Of a node or of an engine's process. Those with a name under `event` are in "
        "[Monitoring](../monitoring.md#logs)."),
        ("warning", "error", "critical", "event", "limited_event"),
    ),
}  # fmt: skip
_GROUP_OF = {name: heading for heading, (_, names) in GROUPS.items() for name in names}
_LOGS = ("warning", "error", "critical")
_EVENTS = ("event", "limited_event")


@dataclass(frozen=True, order=True)
class Message:
    """``remedy`` is empty where the text alone has to do."""

    text: str
    remedy: str
    kind: str  # the name of the call
    file: str
    line: int

    @property
    def group(self) -> str:
        return _GROUP_OF[self.kind]


def collect() -> list[Message]:
    """Every message, sorted; one that stands in several places is there for each."""
    sources = [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("shared/*/src/**/*.py")]
    return sorted(message for path in sources if "testing" not in path.parts for message in _of(path))


def _of(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    words = _assigned(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in _GROUP_OF:
            continue
        texts = [text for argument in node.args if (text := _text(argument, words)) is not None]
        if name in _EVENTS:  # (log, name of the event, words, level) and (log, what is limited, name, words)
            texts = texts[-1:] if _is_warning(node, name) else []
        elif name in _LOGS and isinstance(node.func, ast.Attribute) and len(texts) > 1 and "%" not in texts[0]:
            texts = texts[1:]  # of a RateLimitedLog: the first says which lines are one kind
        if not texts or not re.search(r"[a-z]{3}", texts[0]) or (name in _EVENTS and " " not in texts[0]):
            continue  # no words of its own: they are said where the error comes from
        remedies = [_text(each.value, words) or "is said with it" for each in node.keywords if each.arg == "remedy"]
        if name == "SettingProblem" and len(texts) > 1:
            remedies = [f"accepted: {texts[1]}"]
        yield Message(texts[0], remedies[0] if remedies else "", name, str(path.relative_to(ROOT)), node.lineno)


def _is_warning(node: ast.Call, name: str) -> bool:
    return name == "limited_event" or any(
        isinstance(each, ast.Attribute) and each.attr in ("WARNING", "ERROR", "CRITICAL") for each in node.args
    )


def _assigned(tree: ast.Module) -> dict[str, str]:
    """Texts that a name stands for, where it stands for one only."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            text = _text(node.value, {}) if node.value is not None else None
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, set()).add(text or "")
    return {name: next(iter(texts)) for name, texts in found.items() if len(texts) == 1 and "" not in texts}


def _text(node: ast.expr, words: dict[str, str]) -> str | None:
    """The text of a literal, or of a name that stands for one."""
    if isinstance(node, ast.Constant):
        return _filled(node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values]
        return " ".join("".join(parts).split())
    if isinstance(node, ast.Name):
        return words.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left, words), _text(node.right, words)
        return None if left is None and right is None else f"{left or '...'}{right or '...'}"
    return None


def _filled(text: str) -> str:
    for mark in ("%s", "%d", "%r", "%.1f", "%.0f"):
        text = text.replace(mark, "...")
    return " ".join(text.split())


_PAGE = """\
# All messages

Every error that MemKV's Python packages end with, and every warning that they log, made from their sources; `...` is
what is filled in. What people meet first has more words in [Troubleshooting](../troubleshooting.md). Search this page
for a few words of yours.

"""


def page() -> str:
    """The page of all messages."""
    messages = collect()
    return _PAGE + "\n".join(_group(heading, messages) for heading in GROUPS)


def _group(heading: str, messages: list[Message]) -> str:
    rows = dict.fromkeys((each.text, each.remedy) for each in messages if each.group == heading)
    lines = [f"| {_code(text)} | {_cell(remedy)} |" for text, remedy in rows]
    return "\n".join([f"## {heading}\n", GROUPS[heading][0], "", "| Message | Remedy |", "| --- | --- |", *lines, ""])


def _code(text: str) -> str:
    return f"`` {text} ``".replace("|", "\\|") if "`" in text else f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
