# SPDX-License-Identifier: Apache-2.0
"""What to do about a problem of the log: by its event and cause, else what its own words say after the cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

REMEDIES: Final[dict[tuple[str, str | None], str]] = {
    ("session_refused", "auth_failed"): (
        "The client holds another cluster key: compare auth_key on both sides; while a key is rotated, keep the old "
        "one in network.auth_key_previous."
    ),
    ("session_refused", "identity_mismatch"): (
        "Another model, dtype or layout made this namespace: leave `namespace` unset on the client, or drop the old "
        "one with `memkv admin drop`."
    ),
    ("session_refused", "busy"): "Raise limits.connections_max, or lower `connections` of the clients.",
    (
        "session_refused",
        "draining",
    ): "Nothing: the client goes to other nodes and comes back. `memkv admin drain --undo` ends it.",
    ("session_refused", "unsupported_version"): "Upgrade: the servers first, then the clients.",
    ("session_refused", "storage"): "See the drives above; `memkv drive list` on the node.",
    ("session_refused", None): "Compare key, release and namespace of the client with the node's.",
    ("session_error", "auth"): "A client with another cluster key: compare auth_key on both sides.",
    ("session_error", "protocol"): "Something that is no MemKV client, or one of another release, on the data port.",
    ("session_error", "stalled"): "The client stopped in the middle of a frame: look at its host and at the network.",
    ("session_error", None): "Look at the client's log at the same time.",
    ("lane_down", None): (
        "It is started again by itself. Killed by SIGKILL: the kernel was out of memory (dmesg); else the cause is in "
        "the node's log."
    ),
    ("drive_offline", None): (
        "dmesg and SMART of the drive. Its keys are misses, the other drives serve, and it comes back by itself."
    ),
    ("drive_online", None): "Nothing: it serves again. Look at why it was away.",
    (
        "record_corrupt",
        None,
    ): "The drive or memory lies: `memkv drive scrub` finds the rest. It was a miss, never wrong.",
    ("license_ending", None): "Get or issue a new license; a node that runs goes on until it is restarted.",
    (
        "login_refused",
        None,
    ): "`memkv admin token` prints this cluster's token. If it was not you: who reaches this port?",
}
_DEFAULT: Final = "See the node's log at that time, and Troubleshooting in the documentation (`memkv doc`)."


def with_remedy(problem: Mapping[str, Any]) -> dict[str, Any]:
    """The problem as it is shown. An error of ours says ``cause; remedy`` itself."""
    text = str(problem["text"])
    name, cause = problem.get("event"), problem.get("cause")
    if name is not None:
        remedy = REMEDIES.get((str(name), cause)) or REMEDIES.get((str(name), None)) or _DEFAULT
        return {**problem, "remedy": remedy}
    words, found, own = text.rpartition("; ")
    return {**problem, "text": words, "remedy": own} if found else {**problem, "remedy": _DEFAULT}
