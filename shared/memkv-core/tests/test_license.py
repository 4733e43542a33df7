# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from memkv_core.authority import Authority
from memkv_core.config import ClientConfig
from memkv_core.errors import LicenseError
from memkv_core.license import find_license, load_license, load_trusted_keys, show_license, verify_license
from memkv_core.license_keys import TrustedKeys
from memkv_core.limits import LICENSE_BYTES_MAX

NOW = 1_800_000_000
DAY = 86_400


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"), name="ops")


@pytest.fixture(scope="module")
def keys(authority: Authority) -> TrustedKeys:
    return load_trusted_keys(str(authority.public_keys))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("MEMKV_") or name in ("MINIO_LICENSE", "AISTOR_LICENSE"):
            monkeypatch.delenv(name)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


def refusal(token: str, keys: TrustedKeys, now_s: float = NOW, servers: int | None = None) -> str:
    with pytest.raises(LicenseError) as caught:
        verify_license(token, keys, source="MEMKV_LICENSE", servers=servers, now_s=now_s)
    text = str(caught.value)
    assert text.startswith("MEMKV_LICENSE: ")
    assert "\n" not in text
    assert all(part[:20] not in text for part in token.split(".") if len(part) > 20)
    assert caught.value.remedy
    return text


def encode(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(authority: Authority, changes: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
    """A token with changed claims (None: left out), signed by the authority's real key."""
    good = authority.issue("acme", plan="standard", days=30, now_s=NOW)
    claims = jwt.decode(good, options={"verify_signature": False}) | dict(changes)
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": jwt.get_unverified_header(good)["kid"]} | dict(header or {})
    return jwt.encode(claims, authority._keys["EdDSA"], algorithm="EdDSA", headers=headers)


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES384"])
def test_a_good_license(algorithm: str, authority: Authority, keys: TrustedKeys) -> None:
    token = authority.issue("acme", plan="enterprise", days=30, max_servers=2, algorithm=algorithm, now_s=NOW)
    found = verify_license(token, keys, source="here", servers=2, now_s=NOW)
    assert (found.plan, found.licensee, found.authority, found.max_servers) == ("enterprise", "acme", "ops", 2)
    assert found.expires_at.timestamp() == NOW + 30 * DAY
    assert found.source == "here"


def test_times_with_a_bounded_leeway(authority: Authority, keys: TrustedKeys) -> None:
    token = authority.issue("acme", days=30, now_s=NOW)
    end = NOW + 30 * DAY
    for now_s in (NOW - 60, NOW, end, end + 59):
        verify_license(token, keys, now_s=now_s)
    assert "expired at 2027-02-14 08:00 UTC" in refusal(token, keys, end + 60)
    assert "not valid before 2027-01-15 08:00 UTC; check this host's clock" in refusal(token, keys, NOW - 61)
    assert "not valid before" in refusal(signed(authority, {"nbf": NOW + 100}), keys)
    assert "not valid before" in refusal(signed(authority, {"iat": NOW + 100}), keys)
    for value in ("soon", True, 1e30, [1], float("nan")):
        assert "is no time" in refusal(signed(authority, {"exp": value}), keys)


def test_the_real_clock(authority: Authority, keys: TrustedKeys) -> None:
    verify_license(authority.issue("acme", days=1), keys)
    with pytest.raises(LicenseError, match="expired"):
        verify_license(authority.issue("acme", days=1, now_s=time.time() - 2 * DAY), keys)


def test_claims(authority: Authority, keys: TrustedKeys) -> None:
    assert "not for 'memkv'" in refusal(signed(authority, {"aud": "other"}), keys)
    assert "not for 'memkv'" in refusal(signed(authority, {"aud": ["other", "memkv2"]}), keys)
    for name in ("aud", "exp", "iat", "iss", "plan", "licensee"):
        assert f"lacks '{name}'" in refusal(signed(authority, {name: None}), keys)
    for name in ("plan", "licensee", "iss"):
        for value in ("", "x" * 201, "a\nb", 7, ["a"]):
            if name == "iss" and not isinstance(value, str):
                continue  # PyJWT itself refuses to sign it
            assert f"'{name}' of the license is no short text" in refusal(signed(authority, {name: value}), keys)
    for number in (0, -1, True, "3", 1.5):
        assert "max_servers of the license is no positive number" in refusal(
            signed(authority, {"max_servers": number}), keys
        )
    assert "is for 1 server, and 2 are configured" in refusal(signed(authority, {"max_servers": 1}), keys, servers=2)
    verify_license(signed(authority, {"nbf": None}), keys, now_s=NOW)


def test_forged_and_tampered(authority: Authority, keys: TrustedKeys, tmp_path: Path) -> None:
    token = authority.issue("acme", days=30, now_s=NOW)
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = ".".join([head, encode({**claims, "plan": "enterprise"}), signature])
    assert "altered or forged" in refusal(changed, keys)
    flipped = ("A" if signature[5] != "A" else "B").join([signature[:5], signature[6:]])
    assert "altered or forged" in refusal(".".join([head, body, flipped]), keys)
    assert "altered or forged" in refusal(".".join([head, body, ""]), keys)

    stranger = Authority.create(tmp_path / "stranger")
    text = refusal(stranger.issue("acme", now_s=NOW), keys)
    assert "is not among the trusted keys in" in text
    assert str(authority.public_keys) in text
    # The stranger's signature under the trusted key's id.
    kid = jwt.get_unverified_header(token)["kid"]
    assert "altered or forged" in refusal(signed(stranger, {}, {"kid": kid}), keys)
    assert "key 'None'" in refusal(".".join([encode({"alg": "EdDSA"}), body, signature]), keys)
    assert "no authority is trusted here" in refusal(token, TrustedKeys({}, ("/nowhere",)))


def test_algorithm_confusion(authority: Authority, keys: TrustedKeys) -> None:
    token = authority.issue("acme", now_s=NOW)
    _, body, signature = token.split(".")
    kid = jwt.get_unverified_header(token)["kid"]
    public = next(authority.public_keys.glob("*eddsa.pem")).read_bytes()
    for algorithm in ("none", "None", "NONE", "HS256", "HS512", "RS256", "ES256", "", "eddsa"):
        forged_head = encode({"alg": algorithm, "typ": "JWT", "kid": kid})
        mac = hmac.new(public, f"{forged_head}.{body}".encode(), hashlib.sha256).digest()
        for proof in ("", encode(mac), signature):
            assert "is signed with" in refusal(f"{forged_head}.{body}.{proof}", keys)
    # The other accepted algorithm with this key's id.
    assert "claims ES384" in refusal(f"{encode({'alg': 'ES384', 'kid': kid})}.{body}.{signature}", keys)
    # A key the token brings along counts for nothing.
    own = generate_private_key(SECP384R1())
    bring = jwt.encode({"aud": "memkv"}, own, algorithm="ES384", headers={"jwk": {"kty": "EC"}, "kid": "x"})
    assert "not among the trusted keys" in refusal(bring, keys)


@pytest.mark.parametrize(
    "text",
    [
        "eyJ",
        "eyJ.e30.",
        "eyJhbGciOiJFZERTQSJ9",
        "eyJhbGciOiJFZERTQSJ9.a.b.c",
        "eyJ.\u00e9.x",
        "eyJ9.e30.e30",
        "eyJhIjoxfQ.e30",
    ],
)
def test_what_is_no_token(text: str, keys: TrustedKeys) -> None:
    with pytest.raises(LicenseError):
        verify_license(text, keys, source="x")


def test_signed_but_not_a_mapping(authority: Authority, keys: TrustedKeys) -> None:
    kid = jwt.get_unverified_header(authority.issue("acme"))["kid"]
    key = authority._keys["EdDSA"]
    assert isinstance(key, Ed25519PrivateKey)
    for body in (b"[]", b"7", b"not json", b"[" * 8000, b"\xff"):
        message = f"{encode({'alg': 'EdDSA', 'kid': kid})}.{encode(body)}"
        assert "malformed" in refusal(f"{message}.{encode(key.sign(message.encode()))}", keys)
    assert "longer than" in refusal("eyJ" + "a" * LICENSE_BYTES_MAX, keys)


def test_the_order_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "xdg/memkv/minio.license"
    user.parent.mkdir(parents=True)
    user.write_text("in-user-folder\n")
    assert find_license() == ("in-user-folder", f"file {user}")
    here = tmp_path / "cwd/minio.license"
    here.write_text("in-cwd")
    assert find_license() == ("in-cwd", f"file {here}")
    (tmp_path / "aistor").write_text("aistor")
    monkeypatch.setenv("AISTOR_LICENSE", str(tmp_path / "aistor"))
    assert find_license() == ("aistor", f"AISTOR_LICENSE {tmp_path / 'aistor'}")
    monkeypatch.setenv("MINIO_LICENSE", " eyJ.x.y ")
    assert find_license() == ("eyJ.x.y", "MINIO_LICENSE")
    assert find_license("eyJ.\n a.b", "MEMKV_LICENSE") == ("eyJ.a.b", "license (MEMKV_LICENSE)")


def test_no_license_says_where_it_looked_and_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(LicenseError) as caught:
        find_license()
    text = str(caught.value)
    for word in ["no license found", "MEMKV_CONFIG", "MEMKV_LICENSE", "MINIO_LICENSE", "AISTOR_LICENSE",
                 str(tmp_path / "cwd/minio.license"), str(tmp_path / "xdg/memkv/minio.license"),
                 "/etc/memkv/minio.license", "`memkv license issue`", "`memkv dev up`"]:  # fmt: skip
        assert word in text


def test_a_bad_source_is_named_and_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd/minio.license").write_text("eyJ.later.source")
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "big").write_bytes(b"a" * (LICENSE_BYTES_MAX + 1))
    for value, cause in [
        (tmp_path / "absent", "cannot be read: no such file"),
        (tmp_path, "cannot be read: it is a folder"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "binary", "is not text"),
        (tmp_path / "big", "longer than"),
        ("a\nb", "neither a token nor the path of a file"),
    ]:
        monkeypatch.setenv("MINIO_LICENSE", str(value))
        with pytest.raises(LicenseError, match=r"^MINIO_LICENSE: ") as caught:
            find_license()
        assert cause in str(caught.value)
        assert "`memkv license issue`" in str(caught.value)
    monkeypatch.delenv("MINIO_LICENSE")
    (tmp_path / "cwd/minio.license").unlink()
    (tmp_path / "cwd/minio.license").symlink_to(tmp_path / "gone")
    with pytest.raises(LicenseError, match="cannot be read"):
        find_license()


def test_load_license_for_a_config(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "acme.license"
    path.write_text(authority.issue("acme", plan="p", max_servers=2) + "\n")
    monkeypatch.setenv("MEMKV_LICENSE", str(path))
    monkeypatch.setenv("MEMKV_LICENSE_KEYS", str(authority.public_keys))

    def config(servers: str = "a,b", **more: str) -> ClientConfig:
        return ClientConfig.load(servers=servers, auth_key="00" * 32, **more)

    found = load_license(config())
    assert (found.plan, found.source) == ("p", f"license (MEMKV_LICENSE) {path}")
    with pytest.raises(LicenseError, match="is for 2 servers, and 3 are configured"):
        load_license(config("a,b,c"))
    with pytest.raises(LicenseError, match=r"nowhere \(MEMKV_LICENSE_KEYS|nowhere cannot be read"):
        load_license(config(license_keys="/nowhere"))
    with pytest.raises(LicenseError, match=r"^license \(keyword argument\): /nowhere cannot be read"):
        load_license(config(license="/nowhere"))
    yaml = tmp_path / "memkv.yaml"
    yaml.write_text(f"license: {authority.issue('acme', plan='from-yaml')}\n")
    monkeypatch.setenv("MEMKV_CONFIG", str(yaml))
    found = load_license(config())
    assert (found.plan, found.source) == ("from-yaml", f"license ({yaml})")
    monkeypatch.delenv("MEMKV_LICENSE_KEYS")
    with pytest.raises(LicenseError, match=f"no authority is trusted here; looked in {tmp_path}/xdg"):
        load_license(config())


def test_show_trusts_nothing(authority: Authority, tmp_path: Path) -> None:
    token = authority.issue("acme", plan="p", now_s=0)
    shown = show_license(token)
    assert not shown.trusted
    assert (shown.claims["plan"], shown.header["alg"]) == ("p", "EdDSA")
    (tmp_path / "l").write_text(token[:-8] + "AAAAAAAA")  # even a forged one is shown
    assert show_license(str(tmp_path / "l"), "file").claims["licensee"] == "acme"
    for text in ("eyJ", "eyJhbGciOiJFZERTQSJ9.xx.yy"):
        with pytest.raises(LicenseError, match="not a license token"):
            show_license(text)
