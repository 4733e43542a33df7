# SPDX-License-Identifier: Apache-2.0
"""Admin HTTP over TLS: a node with a certificate, asked by the command line that trusts it or does not."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from memkv_core.address import parse_address
from memkv_core.auth import admin_token


def make_certificate(dir: Path) -> None:
    """cert.pem and key.pem for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "memkv test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    (dir / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (dir / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_admin_over_tls(cli: Callable[..., Any], start_node: Callable[..., Any], tmp_path: Path) -> None:
    make_certificate(tmp_path)
    settings = f"network: {{tls_cert: {tmp_path}/cert.pem, tls_key: {tmp_path}/key.pem}}"
    (tmp_path / "config.yaml").write_text(settings)
    node = start_node("--config", str(tmp_path / "config.yaml"))
    url = f"https://{node.admin}"
    trusting = cli("admin", "health", "--server", url, env={"SSL_CERT_FILE": str(tmp_path / "cert.pem")})
    assert (trusting.returncode, "healthy" in trusting.stdout) == (0, True)
    doubting = cli("admin", "health", "--server", url)
    assert (doubting.returncode, "TLS failed" in doubting.stdout) == (1, True)
    plain = cli("admin", "health", "--server", node.admin)
    assert (plain.returncode, "Traceback" in plain.stderr) == (1, False)


def test_the_dashboards_cookie_stays_on_tls(start_node: Callable[..., Any], tmp_path: Path) -> None:
    make_certificate(tmp_path)
    settings = f"network: {{tls_cert: {tmp_path}/cert.pem, tls_key: {tmp_path}/key.pem}}"
    (tmp_path / "config.yaml").write_text(settings)
    node = start_node("--config", str(tmp_path / "config.yaml"))
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    connection = http.client.HTTPSConnection(*parse_address(node.admin), timeout=30, context=trust)
    try:
        connection.request("POST", "/login", f"token={admin_token(bytes.fromhex('a1' * 32))}")
        response = connection.getresponse()
        assert response.status == 303
        assert "secure" in str(response.getheader("set-cookie")).lower()
    finally:
        connection.close()


def test_a_node_asks_its_peers_over_tls(
    start_node: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the authority that it is told to trust, and says so of a peer whose certificate it does not trust."""
    make_certificate(tmp_path)
    settings = f"network: {{tls_cert: {tmp_path}/cert.pem, tls_key: {tmp_path}/key.pem}}"
    (tmp_path / "config.yaml").write_text(settings)
    first = start_node("--config", str(tmp_path / "config.yaml"))
    (tmp_path / "config.yaml").write_text(f"{settings[:-1]}, peers: ['https://{first.admin}']}}")
    doubting = start_node("--config", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    trusting = start_node("--config", str(tmp_path / "config.yaml"))
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    headers = {"authorization": f"Bearer {admin_token(bytes.fromhex('a1' * 32))}"}

    def seen_by(node: Any) -> Any:
        request = urllib.request.Request(f"https://{node.admin}/v1/dashboard", headers=headers)
        with urllib.request.urlopen(request, timeout=30, context=trust) as response:
            return json.load(response)["nodes"]

    own, peer = seen_by(trusting)
    assert (own["own"], peer["own"]) == (True, False)
    assert (peer["status"], peer["admin_address"]) == ("healthy", first.admin)
    peer = seen_by(doubting)[1]
    assert (peer["status"], peer["error"]) == ("down", "TLS failed: CERTIFICATE_VERIFY_FAILED")
