# SPDX-License-Identifier: Apache-2.0
"""The plugin's license check: what memkv_core accepts it accepts, and what memkv_core refuses it refuses."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from memkv_core.authority import Authority
from memkv_core.errors import LicenseError
from memkv_core.license import load_trusted_keys, verify_license

Ask = Callable[..., dict[str, Any]]
BASE = {"MEMKV_SERVERS": "a,b", "MEMKV_AUTH_KEY": "0123456789abcdef" * 4}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"), name="ops")


def check(ask_with: Ask, authority: Authority, license: str, **variables: str) -> dict[str, Any]:
    given = {**BASE, "MEMKV_LICENSE": license, "MEMKV_LICENSE_KEYS": str(authority.public_keys), **variables}
    answer = ask_with(given, "license", parameters={})
    assert "\n" not in answer.get("error", "")
    return answer


def signed(authority: Authority, changes: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
    """A token with changed claims (None: left out), signed by the authority's real key."""
    good = authority.issue("acme")
    claims = jwt.decode(good, options={"verify_signature": False}) | dict(changes)
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": jwt.get_unverified_header(good)["kid"]} | dict(header or {})
    return jwt.encode(claims, authority._keys["EdDSA"], algorithm="EdDSA", headers=headers)


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES384"])
def test_a_good_license(ask_with: Ask, authority: Authority, algorithm: str, tmp_path: Path) -> None:
    token = authority.issue("acme", plan="enterprise", max_servers=2, algorithm=algorithm)
    answer = check(ask_with, authority, token)
    assert (answer["plan"], answer["licensee"]) == ("enterprise", "acme")
    assert answer["source"] == "license (MEMKV_LICENSE)"
    path = tmp_path / "some.license"
    path.write_text(token + "\n")
    assert check(ask_with, authority, str(path))["plan"] == "enterprise"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"aud": "other"}, "another product"),
        ({"aud": ["x", "y"]}, "another product"),
        ({"exp": int(time.time()) - 120}, "expired at"),
        ({"nbf": int(time.time()) + 86400}, "not valid before"),
        ({"exp": "soon"}, "no time"),
        ({"exp": 1e30}, "no time"),
        ({"exp": True}, "no time"),
        ({"exp": None}, "no time"),
        ({"plan": None}, "'plan'"),
        ({"licensee": "a\nb"}, "'licensee'"),
        ({"iss": ""}, "'iss'"),
        ({"max_servers": 1}, "for 1 server, and 2 are configured"),
        ({"max_servers": "2"}, "max_servers"),
        ({"max_servers": 0}, "max_servers"),
    ],
)
def test_claims(ask_with: Ask, authority: Authority, changes: dict[str, Any], says: str) -> None:
    token = signed(authority, changes)
    assert says in check(ask_with, authority, token)["error"]
    with pytest.raises(LicenseError):
        verify_license(token, load_trusted_keys(str(authority.public_keys)), servers=2)


def test_claims_that_are_as_good(ask_with: Ask, authority: Authority) -> None:
    for changes in ({"aud": ["x", "memkv"]}, {"nbf": None}, {"exp": time.time() - 30}, {"extra": {"a": [1]}}):
        assert check(ask_with, authority, signed(authority, changes))["plan"] == "standard"


def test_forgeries(ask_with: Ask, authority: Authority) -> None:
    token = authority.issue("acme")
    header, claims, signature = token.split(".")
    more = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"plan": "enterprise"}
    forged = base64.urlsafe_b64encode(json.dumps(more).encode()).rstrip(b"=").decode()
    assert "altered or forged" in check(ask_with, authority, f"{header}.{forged}.{signature}")["error"]
    assert "altered or forged" in check(ask_with, authority, f"{header}.{claims}.")["error"]
    kid = jwt.get_unverified_header(token)["kid"]
    unsigned = jwt.encode({"plan": "x"}, "", algorithm="none", headers={"kid": kid})
    assert "signed with 'none'" in check(ask_with, authority, unsigned)["error"]
    weak = jwt.encode({"plan": "x"}, b"k" * 32, algorithm="HS256", headers={"kid": kid})
    assert "signed with 'HS256'" in check(ask_with, authority, weak)["error"]
    other = jwt.get_unverified_header(authority.issue("acme", algorithm="ES384"))["kid"]
    assert "its key" in check(ask_with, authority, signed(authority, {}, {"kid": other}))["error"]
    assert "not among" in check(ask_with, authority, signed(authority, {}, {"kid": "0" * 32}))["error"]


def test_what_is_no_license(ask_with: Ask, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for given, says in [
        ("eyJx", "not a license token"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.AA", "signed with ''"),
        ("a.b.c", "cannot be read"),
        (str(tmp_path), "it is a folder"),
        (str(tmp_path / "empty"), "is empty"),
        (str(tmp_path / "none"), "no such file"),
        ("eyJ" + "x" * 20_000, "not a license token"),
    ]:
        assert says in check(ask_with, authority, given)["error"]


def test_order_of_the_sources(ask_with: Ask, authority: Authority, tmp_path: Path) -> None:
    tokens = {plan: authority.issue("acme", plan=plan) for plan in ("minio", "aistor", "cwd", "user")}
    keys = {"MEMKV_LICENSE_KEYS": str(authority.public_keys)}
    assert "no license found" in ask_with({**BASE, **keys}, "license", parameters={})["error"]
    (tmp_path / "config/memkv").mkdir(parents=True)
    (tmp_path / "config/memkv/minio.license").write_text(tokens["user"])
    assert ask_with({**BASE, **keys}, "license", parameters={})["plan"] == "user"
    (tmp_path / "minio.license").write_text(tokens["cwd"])
    assert ask_with({**BASE, **keys}, "license", parameters={})["plan"] == "cwd"
    given = {**BASE, **keys, "AISTOR_LICENSE": tokens["aistor"]}
    assert ask_with(given, "license", parameters={})["plan"] == "aistor"
    given["MINIO_LICENSE"] = tokens["minio"]
    assert ask_with(given, "license", parameters={})["plan"] == "minio"
    given["MEMKV_LICENSE"] = "eyJbad"
    assert "MEMKV_LICENSE" in ask_with(given, "license", parameters={})["error"]  # and no later source is tried
    assert ask_with(given, "license", parameters={"license": tokens["user"]})["plan"] == "user"


def test_keys(ask_with: Ask, authority: Authority, tmp_path: Path) -> None:
    token = authority.issue("acme")
    folder = tmp_path / "config/memkv/license-keys"
    given = {**BASE, "MEMKV_LICENSE": token}
    assert "no authority is trusted here" in ask_with(given, "license", parameters={})["error"]
    folder.mkdir(parents=True)
    for path in authority.public_keys.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert ask_with(given, "license", parameters={})["plan"] == "standard"
    rsa = generate_private_key(65537, 2048)
    public = rsa.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for text, says in ((public, "of a kind"), (b"x", "no public key"), (b"PRIVATE KEY", "is a private key")):
        (folder / "a.pem").write_bytes(text)
        assert says in ask_with(given, "license", parameters={})["error"]
