# SPDX-License-Identifier: Apache-2.0
"""Would a client start here: the configuration chain, the key, the license."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from memkv_core import ClientConfig
from memkv_core.errors import MemKVError
from memkv_core.license import load_license
from memkv_server.doctor.finding import Finding, of_error

EXPIRES_SOON_S: Final = 30 * 86400.0


def load_settings() -> tuple[ClientConfig | None, list[Finding]]:
    """The client's settings and what there is to say of them; None where a client could not start."""
    try:
        config = ClientConfig.load()
    except MemKVError as error:
        return None, [of_error("configuration", error)]
    findings = [Finding("configuration", "ok", f"{len(config.servers)} server(s), transport {config.transport}")]
    for row in ClientConfig.explain():
        if row.warning:
            remedy = f"take {row.name} out of one of them"
            findings.append(Finding("configuration", "warn", row.warning, remedy))
    findings.extend(_license(config, time.time()))
    return config, findings


def _license(config: ClientConfig, now_s: float) -> Iterator[Finding]:
    try:
        found = load_license(config, now_s=now_s)
    except MemKVError as error:
        yield of_error("license", error)
        return
    left_s = found.expires_at.timestamp() - now_s
    text = f"{found.plan} for {found.licensee}, from {found.source}, expires {found.expires_at:%Y-%m-%d}"
    if left_s < EXPIRES_SOON_S:
        yield Finding("license", "warn", f"{text}: in {left_s / 86400:.0f} days", "renew it: `memkv license issue`")
    else:
        yield Finding("license", "ok", text)
