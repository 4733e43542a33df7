# SPDX-License-Identifier: Apache-2.0
"""Would NIXL find the plugin, load it, reach the cluster, and read what it wrote? A list of findings."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from memkv_core import Client, ClientConfig
from memkv_core.errors import MemKVError
from memkv_core.license import load_license
from memkv_nixl._compat import TESTED, NixlBuild, installed_builds
from memkv_nixl.agents import Agent
from memkv_nixl.links import ALIASES, NAME, place_of, require_plugin

Verdict = Literal["ok", "warning", "error"]

_BLOCK_BYTES: Final = 64 * 1024
_NAMESPACE: Final = "memkv-nixl-check"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    text: str


def check() -> Iterator[Finding]:
    """Findings in the order of the steps; what cannot go on ends with an error."""
    try:
        require_plugin()
        config = ClientConfig.load(namespace=_NAMESPACE)
        license = load_license(config)
    except MemKVError as error:
        yield Finding("error", str(error))
        return
    yield Finding("ok", f"settings and license: {', '.join(config.servers)}; plan {license.plan}")
    builds = installed_builds()
    if not builds:
        yield Finding("error", "no NIXL wheel is installed for this Python")
        return
    for build in builds:
        yield from _about(build)
    found = place_of(builds[0].plugins, NAME)
    if found.state == "ours" and builds[0].supported:
        yield from _round_trip(builds[0], config)


def _about(build: NixlBuild) -> Iterator[Finding]:
    name = f"{build.module} {build.version}"
    if not build.supported:
        yield Finding("error", f"{name}: the plugin is for NIXL 1.x")
    elif build.version in TESTED:
        yield Finding("ok", f"{name} is a version that the plugin was tested with")
    else:
        yield Finding("warning", f"{name} is none of the tested versions {', '.join(TESTED)}")
    place = place_of(build.plugins, NAME)
    if place.state == "ours":
        yield Finding("ok", f"the plugin is linked into {build.plugins}")
    else:
        remedy = 'run `memkv-nixl install`, or eval "$(memkv-nixl env)" where it cannot be written'
        yield Finding("error", f"the plugin is not in {build.plugins}: {remedy}")
    for alias in ALIASES:
        if place_of(build.plugins, alias).state == "ours":
            yield Finding("ok", f"NIXL's {alias} backend is MemKV there")


def _round_trip(build: NixlBuild, config: ClientConfig) -> Iterator[Finding]:
    keys = [f"check/{secrets.token_hex(8)}" for _ in range(2)]
    blocks = np.frombuffer(secrets.token_bytes(2 * _BLOCK_BYTES), np.uint8).reshape(2, -1).copy()
    target = np.zeros_like(blocks)
    try:
        with Agent(build, NAME, {"namespace": _NAMESPACE}) as agent, Client(config) as client:
            agent.write(keys, blocks)
            agent.read(keys, target)
            same = np.array_equal(blocks, target)
            found = client.get(keys, list(target))
            client.delete(keys)
    except MemKVError as error:
        yield Finding("error", str(error))
        return
    if same and found == [_BLOCK_BYTES] * 2:
        yield Finding("ok", "an agent wrote and read blocks, and MemKV's own client read what it wrote")
    else:
        yield Finding("error", "what was read is not what an agent wrote")
