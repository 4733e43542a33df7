# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from memkv_core.authority import Authority
from memkv_core.errors import InvalidArgumentError, LicenseError
from memkv_core.license_keys import load_trusted_keys


def test_create_load_issue(tmp_path: Path) -> None:
    created = Authority.create(tmp_path / "a", name="ops")
    for name in ("eddsa.key", "es384.key"):
        assert (tmp_path / "a/private" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a/private").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in created.public_keys.iterdir()) == ["ops-eddsa.pem", "ops-es384.pem"]
    loaded = Authority.load(tmp_path / "a")
    assert (loaded.name, loaded.directory) == ("ops", tmp_path / "a")
    keys = load_trusted_keys(str(created.public_keys)).keys
    for algorithm in ("EdDSA", "ES384"):
        token = loaded.issue("acme", plan="p", days=2, max_servers=3, algorithm=algorithm, now_s=1000)
        header = jwt.get_unverified_header(token)
        assert header["alg"] == algorithm
        assert keys[header["kid"]].algorithm == algorithm
        assert jwt.decode(token, options={"verify_signature": False}) == {
            "aud": "memkv", "iss": "ops", "licensee": "acme", "plan": "p", "max_servers": 3,
            "iat": 1000, "nbf": 1000, "exp": 1000 + 2 * 86400,
        }  # fmt: skip
    assert "private" not in repr(loaded).lower()


def test_create_refuses(tmp_path: Path) -> None:
    Authority.create(tmp_path / "a")
    with pytest.raises(LicenseError, match="holds an authority already"):
        Authority.create(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(LicenseError, match="no authority can be made in"):
        Authority.create(tmp_path / "file" / "b")
    for name in ("", "a/b", "..", "a b", "x" * 65):
        with pytest.raises(InvalidArgumentError, match="is no authority name"):
            Authority.create(tmp_path / "c", name=name)


def test_load_refuses(tmp_path: Path) -> None:
    with pytest.raises(LicenseError, match="holds no license authority"):
        Authority.load(tmp_path)
    for text in ("", "[]", "{}", '{"format": 2, "name": "x"}', '{"format": 1, "name": 7}', "[" * 16000):
        (tmp_path / "authority.json").write_text(text)
        with pytest.raises(LicenseError, match="is not an authority of this version"):
            Authority.load(tmp_path)
    authority = Authority.create(tmp_path / "a")
    key = authority.directory / "private/eddsa.key"
    key.chmod(0o640)
    with pytest.raises(LicenseError, match=r"can be read by others \(mode 640\); chmod 600"):
        Authority.load(tmp_path / "a")
    key.chmod(0o600)
    good = key.read_bytes()
    key.write_bytes(b"junk")
    with pytest.raises(LicenseError, match="is no private key"):
        Authority.load(tmp_path / "a")
    key.write_bytes((authority.directory / "private/es384.key").read_bytes())
    with pytest.raises(LicenseError, match="is no key for EdDSA"):
        Authority.load(tmp_path / "a")
    key.unlink()
    with pytest.raises(LicenseError, match="cannot be read: no such file"):
        Authority.load(tmp_path / "a")
    key.write_bytes(good)
    key.chmod(0o600)
    Authority.load(tmp_path / "a")


@pytest.mark.parametrize(
    "arguments",
    [
        {"licensee": ""},
        {"licensee": "a\nb"},
        {"licensee": "x" * 201},
        {"plan": ""},
        {"plan": "\x1b[31m"},
        {"days": 0},
        {"days": -1},
        {"days": 36501},
        {"max_servers": 0},
        {"algorithm": "HS256"},
        {"algorithm": "none"},
    ],
)
def test_issue_refuses(arguments: dict[str, object], tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    with pytest.raises(InvalidArgumentError) as caught:
        authority.issue(**{"licensee": "acme", **arguments})  # type: ignore[arg-type]
    assert caught.value.remedy
