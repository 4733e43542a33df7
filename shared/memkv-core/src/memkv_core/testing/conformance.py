# SPDX-License-Identifier: Apache-2.0
"""The conformance kit: inherit a class, fill in its hooks, and be held to what every engine or transport must do.

::

    class TestMyEngine(EngineTests):
        def make_engine(self, path): return MyEngine(path, capacity_bytes=16 << 20)
        def reopen(self, engine): engine.close(); return MyEngine(engine.path)
        def damage(self, engine, namespace, key): ...
"""

from __future__ import annotations

import pytest

# The kit's asserts explain themselves only if pytest rewrites them, which it does for test files unasked.
pytest.register_assert_rewrite(
    "memkv_core.testing.engine_tests",
    "memkv_core.testing.node_hooks",
    "memkv_core.testing.stateful",
    "memkv_core.testing.transport_tests",
)

from memkv_core.testing.engine_tests import EngineTests  # noqa: E402
from memkv_core.testing.stateful import EngineMachine, check_engine  # noqa: E402
from memkv_core.testing.transport_tests import TransportTests  # noqa: E402

__all__ = ["EngineMachine", "EngineTests", "TransportTests", "check_engine"]
