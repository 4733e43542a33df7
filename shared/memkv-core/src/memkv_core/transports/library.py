# SPDX-License-Identifier: Apache-2.0
"""Loads the binding to RDMA devices: large, and not everywhere there, so only where it is asked for."""

from __future__ import annotations

import importlib

from memkv_core.transports import verbs


def load_verbs() -> verbs.Verbs:
    """pyverbs. DeviceUnavailableError where it cannot be had, in one line."""
    try:
        binding = importlib.import_module("memkv_core.transports.pyverbs_binding")  # large: only where it is asked for
    except ImportError as error:
        raise verbs.DeviceUnavailableError(f"RDMA is not part of this installation ({error})") from error
    library: verbs.Verbs = binding.load()
    return library
