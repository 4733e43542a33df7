# SPDX-License-Identifier: Apache-2.0
"""The node's license, verified offline before a port is bound. A node has no list of servers, so none are counted."""

from __future__ import annotations

from memkv_core.license import License, find_license, load_trusted_keys, verify_license
from memkv_server.config import ServerConfig


def load_server_license(config: ServerConfig) -> License:
    """The verified license of a node. Raises LicenseError: which source, what is wrong, what to do."""
    token, source = find_license(config.license, config.source_of("license"))
    keys = load_trusted_keys(config.license_keys, config.source_of("license_keys"))
    return verify_license(token, keys, source=source)
