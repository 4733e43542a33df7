# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from memkv_core.authority import Authority
from memkv_core.errors import LicenseError
from memkv_core.license_keys import load_trusted_keys
from memkv_core.limits import LICENSE_KEYS_MAX


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"), name="ops")


def pem(key: object) -> bytes:
    public = key.public_key()  # type: ignore[attr-defined]
    data = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(data, bytes)
    return data


def test_folder_file_and_list(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", name="other")
    one = other.public_keys / "other-eddsa.pem"
    found = load_trusted_keys(f"{authority.public_keys}{os.pathsep}{one}")
    assert sorted((key.algorithm, Path(key.source).name) for key in found.keys.values()) == [
        ("ES384", "ops-es384.pem"),
        ("EdDSA", "ops-eddsa.pem"),
        ("EdDSA", "other-eddsa.pem"),
    ]
    assert all(kid == key.kid and len(kid) == 32 for kid, key in found.keys.items())
    assert found.sources == (f"{authority.public_keys} (MEMKV_LICENSE_KEYS)", f"{one} (MEMKV_LICENSE_KEYS)")


def test_default_folders(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert str(tmp_path / "memkv/license-keys") in load_trusted_keys(None).sources
    folder = tmp_path / "memkv/license-keys"
    folder.mkdir(parents=True)
    for path in authority.public_keys.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.txt").write_text("not a key")
    assert {Path(key.source).parent for key in load_trusted_keys(None).keys.values()} >= {folder}
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sources = load_trusted_keys(None).sources
    assert sources == (str(tmp_path / "home/.config/memkv/license-keys"), "/etc/memkv/license-keys")


def test_bad_keys_are_named(authority: Authority, tmp_path: Path) -> None:
    private = (authority.directory / "private" / "eddsa.key").read_bytes()
    cases = {
        "private.pem": (private, "is a private key"),
        "empty.pem": (b"", "is no public key"),
        "text.pem": (b"hello", "is no public key"),
        "rsa.pem": (pem(rsa.generate_private_key(65537, 2048)), "of a kind that licenses do not use"),
        "p256.pem": (pem(ec.generate_private_key(ec.SECP256R1())), "of a kind that licenses do not use"),
        "ed448.pem": (pem(ed448.Ed448PrivateKey.generate()), "of a kind that licenses do not use"),
    }
    for name, (data, cause) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(LicenseError) as caught:
            load_trusted_keys(str(path))
        assert cause in str(caught.value)
        assert name in str(caught.value)
        assert "BEGIN" not in str(caught.value)
    with pytest.raises(LicenseError, match=r"absent\.pem cannot be read: no such file"):
        load_trusted_keys(str(tmp_path / "absent.pem"))


def test_number_of_keys_is_bounded(tmp_path: Path) -> None:
    for number in range(LICENSE_KEYS_MAX + 1):
        (tmp_path / f"{number}.pem").touch()
    with pytest.raises(LicenseError, match=f"{LICENSE_KEYS_MAX + 1} license keys"):
        load_trusted_keys(str(tmp_path))
