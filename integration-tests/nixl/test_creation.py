# SPDX-License-Identifier: Apache-2.0
"""A backend that cannot be made says why, in a line beside NIXL's own log; one that can hides its secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from memkv_rig.cluster import Cluster
from nixl_rig.transfers import BACKEND, Rig, random_blocks

from memkv_core.authority import Authority
from memkv_nixl.agents import TransferError


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"sever": "a:1"}, "unknown setting 'sever'"),
        ({"servers": "http://a:1"}, "has a scheme"),
        ({"servers": "a:port"}, "port 'port'"),
        ({"auth_key": "abc"}, "3 characters instead of 64"),
        ({"auth_key": "00" * 32}, "MEMKV_AUTH_KEY"),
        ({"timeout_ms": "fast"}, "no whole number"),
        ({"license": "eyJnope"}, "not a license token"),
        ({"license": "/none"}, "cannot be read"),
        ({"license_keys": "/none"}, "cannot be read"),
    ],
)
def test_bad_parameters(
    cluster: Cluster, namespace: str, capfd: pytest.CaptureFixture[str], params: dict[str, str], says: str
) -> None:
    with pytest.raises(TransferError, match="NIXL_ERR_BACKEND"):
        Rig(namespace, **params)
    lines = [line for line in capfd.readouterr().err.splitlines() if "memkv] MEMKV backend cannot be created" in line]
    assert len(lines) == 1
    assert says in lines[0]
    assert lines[0].startswith("E")


def test_without_any_configuration(namespace: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TransferError):
        Rig(namespace)
    said = capfd.readouterr().err
    for name in ("MEMKV_SERVERS", "MEMKV_AUTH_KEY", "MEMKV_CONFIG"):
        assert name in said


def test_an_expired_or_foreign_license(
    cluster: Cluster, namespace: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority = Authority.create(tmp_path / "authority")
    for token, keys, says in (
        (authority.issue("x", days=1, now_s=1e9), str(authority.public_keys), "expired at"),
        (authority.issue("x"), cluster.env["MEMKV_LICENSE_KEYS"], "not among the trusted keys"),
        (authority.issue("x", max_servers=1), str(authority.public_keys), "for 1 server, and 2 are configured"),
    ):
        with pytest.raises(TransferError):
            Rig(namespace, license=token, license_keys=keys)
        assert says in capfd.readouterr().err


def test_configuration_from_a_file(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memkv.yaml"
    env = cluster.env
    path.write_text(
        f"servers: [{env['MEMKV_SERVERS']}]\nauth_key: '{env['MEMKV_AUTH_KEY']}'\nlicense: {env['MEMKV_LICENSE']}\n"
        f"license_keys: {env['MEMKV_LICENSE_KEYS']}\nnamespace: from-the-file\n"
    )
    monkeypatch.setenv("MEMKV_CONFIG", str(path))
    monkeypatch.setenv("MEMKV_SERVERS", "nowhere.invalid")
    with Rig("") as rig:  # an empty parameter is none
        rig.write(["k"], random_blocks(1, 10))
        assert rig.exists(["k"]) == [True]


def test_secrets_are_hidden(cluster: Cluster, namespace: str) -> None:
    with Rig(namespace, auth_key=cluster.env["MEMKV_AUTH_KEY"]) as rig:
        shown = rig.agent.get_backend_params(BACKEND)
        assert shown["auth_key"] == "****"
        assert shown["namespace"] == namespace


def test_options_are_listed(cluster: Cluster, namespace: str) -> None:
    with Rig(namespace) as rig:
        options = rig.agent.get_plugin_params(BACKEND)
        assert (options["timeout_ms"], options["on_error"], options["error_codes"]) == ("5000", "error", "precise")
        assert set(rig.agent.get_plugin_mem_types(BACKEND)) == {"DRAM_SEG", "OBJ_SEG", "FILE_SEG"}
