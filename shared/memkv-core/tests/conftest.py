# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from memkv_core.authority import Authority
from memkv_core.config import ClientConfig

KEY = bytes(range(32))
PROTOCOL = Path(__file__).resolve().parents[2] / "protocol"

# No time limit for an example: a busy machine would decide. A failing example is printed as a line to paste.
settings.register_profile("memkv", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("memkv")


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, Any]]:
    """Loads one file of the protocol's golden vectors."""

    def load(name: str) -> dict[str, Any]:
        loaded = json.loads((PROTOCOL / "vectors" / name).read_text())
        assert isinstance(loaded, dict)
        return loaded

    return load


@pytest.fixture(scope="session")
def license_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The two settings of a license that is valid for the length of a test run."""
    authority = Authority.create(tmp_path_factory.mktemp("license") / "authority", name="tests")
    return {
        "license": authority.issue("tests", plan="test", days=1),
        "license_keys": str(authority.public_keys),
    }


@pytest.fixture
def make_config(monkeypatch: pytest.MonkeyPatch, license_settings: dict[str, str]) -> Callable[..., ClientConfig]:
    """Settings of a client with KEY and a license; the environment of whoever runs the tests stays out of them."""
    for name in list(os.environ):
        if name.startswith("MEMKV_"):
            monkeypatch.delenv(name)

    def make(*servers: str, **overrides: Any) -> ClientConfig:
        given = {"servers": list(servers), "auth_key": KEY.hex(), "timeout_ms": 20_000}
        return ClientConfig.load(**(given | license_settings | overrides))

    return make


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until a condition holds; long enough for any machine, and no longer than needed."""

    def wait(condition: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up_s, "it did not come true"
            time.sleep(0.01)

    return wait
