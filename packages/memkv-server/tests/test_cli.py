# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: a process of its own, its exit code, what it prints where."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from memkv_core.license import Authority

Cli = Callable[..., Any]
Refused = Callable[..., str]
COMMANDS = [
    "", "setup", "start", "keygen", "bench", "simulate", "admin", "admin status", "admin health", "admin token",
    "config", "config show", "license", "license authority", "license issue", "license show", "license verify", "dev",
    "dev up", "dev status", "dev down", "net", "net topo",
]  # fmt: skip
KEY = "a1" * 32


def start(credentials: Any, *flags: str) -> list[str]:
    """Arguments of a ``memkv start`` in which only ``flags`` can be wrong."""
    given = [*credentials.flags, "--address", "127.0.0.1:0", "--capacity", "64MiB", *flags]
    return ["start", *given, *(() if {"--path", "--mode"}.intersection(flags) else ("--mode", "memory"))]


# -- help and usage --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_help(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: memkv" in done.stdout
    if command and command not in ("admin", "config", "license", "dev", "drive", "net"):
        assert "Examples:" in done.stdout


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, "memkv 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "no such command 'frobnicate'"),
        (["start", "--frob"], "no such option: --frob"),
        (["start", "--lanes", "many"], "invalid value for '--lanes'"),
        (["dev", "up", "--nodes"], "requires an argument"),
        (["license", "issue"], "missing option"),
        (["license", "issue", "--authority", "none", "--licensee", "me"], "holds no license authority"),
    ],
)
def test_wrong_usage(refused: Refused, arguments: list[str], expected: str) -> None:
    assert expected in refused(*arguments).lower()


# -- memkv start: bad input ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("ab" * 31, "62 characters instead of 64"),
        ("xy" * 32, "no hexadecimal digit"),
        ("", "0 characters instead of 64"),
        (None, "no such file"),
    ],
)
def test_start_with_a_bad_key(
    refused: Refused, credentials: Any, tmp_path: Path, key: str | None, expected: str
) -> None:
    if key is not None:
        (tmp_path / "bad.key").write_text(key)
    line = refused(*start(credentials, "--auth-key-file", str(tmp_path / "bad.key")))
    assert expected in line
    assert "bad.key" in line
    assert not key or key not in line


def test_start_without_a_key(refused: Refused) -> None:
    assert "network.auth_key is not set" in refused("start", "--mode", "memory", "--capacity", "1GiB")


@pytest.mark.parametrize("which", ["--address", "--admin"])
def test_start_on_a_port_in_use(refused: Refused, credentials: Any, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(*start(credentials, which, address))
        assert f"port {address} is in use" in line


def test_start_of_two_nodes_on_one_folder(refused: Refused, credentials: Any, start_node: Any, tmp_path: Path) -> None:
    start_node("--path", str(tmp_path / "data"))
    line = refused(*start(credentials, "--path", str(tmp_path / "data")))
    assert "in use by another node" in line


def test_start_on_a_foreign_folder(refused: Refused, credentials: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"\xff\xd8")
    line = refused(*start(credentials, "--path", str(folder)))
    assert "holiday.jpg" in line
    assert os.listdir(folder) == ["holiday.jpg"]


def test_start_on_a_file(refused: Refused, credentials: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refused(*start(credentials, "--path", str(tmp_path / "file")))


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
@pytest.mark.parametrize("name", ["locked", "locked/new"])
def test_start_on_an_unwritable_folder(refused: Refused, credentials: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    without_privilege = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()
    line = refused(*start(credentials, "--path", str(tmp_path / name)), prefix=without_privilege)
    assert f"{tmp_path}/locked" in line
    assert "Permission denied" in line
    assert os.listdir(tmp_path / "locked") == []


def test_start_on_a_filesystem_that_takes_no_files(refused: Refused, credentials: Any) -> None:
    line = refused(*start(credentials, "--path", "/proc/memkv"))
    assert "/proc/memkv" in line


@pytest.mark.parametrize(
    ("capacity", "expected"), [("50TiB", r"\d+ bytes are needed and \d+ are free"), ("1000TiB", "more")]
)
def test_start_on_a_drive_that_is_too_small(
    refused: Refused, credentials: Any, tmp_path: Path, capacity: str, expected: str
) -> None:
    line = refused(*start(credentials, "--path", str(tmp_path / "data"), "--capacity", capacity))
    assert re.search(expected, line)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("capacity", ["1KiB", "0", "-5", "plenty"])
def test_start_with_a_capacity_that_is_none(refused: Refused, credentials: Any, capacity: str) -> None:
    assert re.search("capacity|bytes", refused(*start(credentials, f"--capacity={capacity}")))


def test_mode_direct_on_a_filesystem_in_memory_is_refused_in_one_line(refused: Refused, credentials: Any) -> None:
    if not Path("/dev/shm").is_mount():
        pytest.skip("/dev/shm is no tmpfs here")
    line = refused(*start(credentials, "--mode", "direct", "--path", "/dev/shm/memkv-test-cli"))
    assert "is on a tmpfs, which is memory and has no O_DIRECT; use mode memory, or name a folder on a drive" in line
    assert not Path("/dev/shm/memkv-test-cli").exists()


def forged(authority: Authority, claims: dict[str, Any]) -> str:
    """A license of the right authority with claims that ``issue`` would not write."""
    pem = (authority.directory / "private" / "eddsa.key").read_bytes()
    genuine = authority.issue("tests")
    said = jwt.decode(genuine, options={"verify_signature": False})
    header = jwt.get_unverified_header(genuine)
    key: Any = load_pem_private_key(pem, password=None)
    return jwt.encode({**said, **claims}, key, algorithm="EdDSA", headers={"kid": header["kid"]})


BAD_LICENSES: dict[str, tuple[Callable[[Any, Path], str], str]] = {
    "expired": (lambda c, _p: str(c.authority.issue("tests", days=1, now_s=1_600_000_000)), "expired at"),
    "forged": (lambda c, _p: _altered(c.authority.issue("tests")), "altered or forged|malformed|not a license"),
    "other authority": (
        lambda _c, p: Authority.create(p / "other").issue("tests"),
        "trust|key",
    ),
    "other audience": (lambda c, _p: forged(c.authority, {"aud": "billing"}), "for another product"),
    "not yet valid": (lambda c, _p: forged(c.authority, {"nbf": 4_000_000_000}), "not valid before"),
    "no license": (lambda _c, _p: "hello", "not a license token"),
    "empty": (lambda _c, _p: "", "is empty"),
}


def _altered(token: str) -> str:
    """The token with a bit of its signature flipped."""
    at = token.rindex(".") + 10
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


@pytest.mark.parametrize("case", BAD_LICENSES)
def test_start_with_a_bad_license(refused: Refused, credentials: Any, tmp_path: Path, case: str) -> None:
    make, expected = BAD_LICENSES[case]
    token = make(credentials, tmp_path)
    (tmp_path / "bad.license").write_text(token)
    line = refused(*start(credentials, "--license", str(tmp_path / "bad.license")))
    assert re.search(expected, line), line
    assert "bad.license" in line
    assert not token or token not in line or case == "no license"


def test_start_with_a_license_file_that_is_not_there(refused: Refused, credentials: Any) -> None:
    assert "/none.license cannot be read" in refused(*start(credentials, "--license", "/none.license"))


def test_start_without_a_license(refused: Refused, credentials: Any, tmp_path: Path) -> None:
    flags = credentials.flags[:2]
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}
    line = refused("start", *flags, "--mode", "memory", "--capacity", "64MiB", "--address", "127.0.0.1:0", env=home)
    assert "no license found" in line
    assert "memkv license issue" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("netwrok: {}", "unknown setting 'netwrok'; did you mean 'network'?"),
        ("storage: {mode: tape}", "storage.mode = 'tape'"),
        ("network: [", "not valid yaml"),
    ],
)
def test_start_with_a_bad_file(refused: Refused, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    line = refused("start", "--config", str(tmp_path / "config.yaml"))
    assert f"{tmp_path}/config.yaml" in line
    assert expected in line


def test_start_with_a_bad_certificate(refused: Refused, credentials: Any, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "config.yaml").write_text(f"network: {{tls_cert: {tmp_path}/cert.pem, tls_key: {tmp_path}/none.pem}}")
    assert "cert.pem" in refused(*start(credentials, "--config", str(tmp_path / "config.yaml")))


# -- the other commands ----------------------------------------------------------------------------------------------
def test_keygen(cli: Cli, refused: Refused, tmp_path: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}\n", cli("keygen").stdout)
    assert cli("keygen", "--out", "a.key").returncode == 0
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert "a.key exists already" in refused("keygen", "--out", "a.key")


def test_a_license_from_authority_to_verification(cli: Cli, refused: Refused, tmp_path: Path) -> None:
    assert cli("license", "authority", "--dir", "auth", "--name", "acme").returncode == 0
    issue = ["license", "issue", "--authority", "auth", "--licensee", "Team KV", "--max-servers", "4"]
    assert cli(*issue, "--plan", "gold", "--out", "minio.license").returncode == 0
    shown = json.loads(cli("license", "show", "--json").stdout)
    assert (shown["verified"], shown["claims"]["plan"]) == (False, "gold")
    keys = {"MEMKV_LICENSE_KEYS": str(tmp_path / "auth" / "license-keys")}
    verified = json.loads(cli("license", "verify", "--json", env=keys).stdout)
    assert (verified["verified"], verified["licensee"], verified["max_servers"]) == (True, "Team KV", 4)
    assert "Team KV" in cli("license", "verify", "minio.license", "--keys", "auth/license-keys").stdout
    assert cli("license", "verify", env={"XDG_CONFIG_HOME": str(tmp_path)}).returncode == 2
    assert "holds an authority already" in refused("license", "authority", "--dir", "auth")
    assert "days = 0" in refused(*issue, "--days", "0")


def test_config_show_of_a_client(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "client.yaml").write_text("servers: [file-host]\ntimeout_ms: 700\n")
    env = {
        "MEMKV_CONFIG": str(tmp_path / "client.yaml"),
        "MEMKV_SERVERS": "env-host:9900",
        "MEMKV_AUTH_KEY": KEY,
    }
    done = cli("config", "show", "--json", env=env)
    assert done.returncode == 0
    assert KEY not in done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["settings"]}
    assert rows["servers"]["value"] == "file-host:9900"
    assert rows["servers"]["shadowed"] == ["MEMKV_SERVERS"]
    assert (rows["auth_key"]["value"], rows["auth_key"]["source"]) == ("****", "MEMKV_AUTH_KEY")
    assert rows["transport"]["source"] == "default"
    assert "MEMKV_SERVERS sets servers without effect" in done.stderr
    assert "timeout_ms" in cli("config", "show", env=env).stdout


def test_config_show_of_a_server(cli: Cli, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(f"network: {{auth_key: '{KEY}'}}\nstorage: {{drives: [{{path: /srv/a}}]}}\n")
    done = cli("config", "show", "--server", "node.yaml", "--json")
    rows = {row["name"]: row["value"] for row in json.loads(done.stdout)["settings"]}
    assert rows["network.auth_key"] == "****"
    assert rows["storage.drives[0].path"] == "/srv/a"
    (tmp_path / "node.yaml").write_text("lanes: x\n")
    assert "node.yaml: lanes = 'x'" in refused("config", "show", "--server", "node.yaml")


def test_setup_prepares_a_folder_that_start_takes(
    cli: Cli, refused: Refused, credentials: Any, start_node: Any, tmp_path: Path
) -> None:
    flags = ["setup", "--drives", "d0", "--capacity", "64MiB", "--auth-key-file", "k"]
    dry = cli(*flags, "--dry-run")
    assert (dry.returncode, os.listdir(tmp_path)) == (0, [])
    assert "would" in dry.stderr
    done = cli(*flags)
    assert done.returncode == 0
    assert done.stdout == dry.stdout
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert "holds a MemKV store already" in refused(*flags)
    assert cli(*flags, "--idempotent").returncode == 0
    (tmp_path / "config.yaml").write_text(done.stdout)
    node = start_node("--config", str(tmp_path / "config.yaml"), "--path", str(tmp_path / "d0"))
    client = node.client()
    assert client.put(["k"], [b"v"]) == [True]
    client.close()
    forced = cli(*flags, "--force")
    assert (forced.returncode, "running node" in forced.stderr) == (2, True)
    node.stop()
    assert cli(*flags, "--force").returncode == 0


def test_setup_refuses_a_foreign_folder_and_by_force_leaves_alone_what_is_in_it(
    cli: Cli, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "d0").mkdir()
    (tmp_path / "d0" / "thesis.tex").write_text("x")
    flags = ("setup", "--drives", "new", "--drives", "d0", "--capacity", "64MiB")
    for flag in ("--idempotent", "--dry-run"):
        assert "thesis.tex" in refused(*flags, flag)
    assert sorted(os.listdir(tmp_path)) == ["d0"]
    assert "give --capacity, such as 800GiB" in refused("setup", "--drives", "new")
    assert cli(*flags, "--force").returncode == 0
    assert (tmp_path / "d0" / "thesis.tex").read_text() == "x"
    assert cli("drive", "check", "d0", "new").returncode == 0


def test_setup_twice_changes_nothing_even_beside_a_running_node(cli: Cli, start_node: Any, tmp_path: Path) -> None:
    flags = ("setup", "--drives", "d0,d{1...2}", "--capacity", "64MiB", "--auth-key-file", "k", "--idempotent")
    first = cli(*flags)
    assert first.returncode == 0
    assert first.stdout.count("path: ") == 3
    (tmp_path / "config.yaml").write_text(first.stdout)
    start_node("--config", str(tmp_path / "config.yaml"), "--path", str(tmp_path / "d0"))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("[dk]*/**/*")}
    again = cli(*flags)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert again.stderr.count("keep the store that is there (a MemKV store), 67108864 bytes") == 3
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--drives", "a", "--drives", "auto"], "--drives auto stands beside others; use auto alone"),
        (["--drives", ","], "--drives names none"),
        (["--drives", "d{4...1}"], "{4...1} is no range; write it as {1...4}"),
        (
            ["--drives", "d", "--mode", "memory", "--capacity", "1GiB"],
            "--mode 'memory' has no drives; use file or direct",
        ),
    ],
)
def test_setup_with_drives_that_are_none(cli: Cli, flags: list[str], expected: str) -> None:
    done = cli("setup", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr


def test_setup_without_drives_shows_those_of_the_machine(cli: Cli) -> None:
    done = cli("setup")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].split() == ["device", "kind", "size", "model", "state", "because", "auto"]
    assert done.stderr.splitlines()[-1].startswith("memkv: no drive is named; give --drives auto")


def test_admin_of_a_running_node(cli: Cli, start_node: Any) -> None:
    node = start_node()
    env = {"MEMKV_SERVERS": node.address, "MEMKV_AUTH_KEY": KEY}
    done = cli("admin", "status", env=env)
    assert done.returncode == 0
    assert node.admin in done.stdout
    assert "healthy" in done.stdout
    status = json.loads(cli("admin", "status", "--json", env=env).stdout)["nodes"][0]
    assert (status["code"], status["health"]["status"]) == (200, "healthy")
    health = cli("admin", "health", "--server", node.admin, "--json")
    assert (health.returncode, json.loads(health.stdout)["nodes"][0]["status"]) == (0, "healthy")
    assert len(cli("admin", "token", env=env).stdout.strip()) == 64


def test_admin_status_of_all_nodes_is_one_table(cli: Cli, start_node: Any) -> None:
    nodes = [start_node(), start_node()]
    servers = ",".join([*(node.address for node in nodes), "127.0.0.1:1"])
    done = cli("admin", "status", env={"MEMKV_SERVERS": servers, "MEMKV_AUTH_KEY": KEY})
    assert done.returncode == 1, "one of them does not answer"
    rows = [line for line in done.stdout.splitlines() if "127.0.0.1" in line]
    assert [any(node.admin in row and "healthy" in row for row in rows) for node in nodes] == [True, True]
    assert "connection refused" in next(row for row in rows if "127.0.0.1:2 " in row)


def test_admin_of_nodes_that_do_not_answer(cli: Cli, start_node: Any) -> None:
    node = start_node()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        dead, mute = "127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"
        done = cli("admin", "health", "-s", node.admin, "-s", dead, "-s", mute)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"healthy[\s\S]*connection refused[\s\S]*no answer in time", done.stdout)
    wrong = cli("admin", "status", "-s", node.admin, env={"MEMKV_AUTH_KEY": "00" * 32})
    assert (wrong.returncode, "not that of this cluster's key" in wrong.stdout) == (1, True)


def test_admin_without_a_node_or_a_key(refused: Refused) -> None:
    assert "no node is named" in refused("admin", "health")
    assert "no cluster key" in refused("admin", "status", "--server", "127.0.0.1:1")
    assert "auth_key: it has 3 characters" in refused("admin", "token", env={"MEMKV_AUTH_KEY": "abc"})


def test_an_error_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from memkv_server.cli import boundary, keys

    def broken() -> str:
        raise ZeroDivisionError("eyJhbGciOiJFZERTQSJ9.eyJhIjoxfQ.c2ln")

    monkeypatch.setattr(keys, "generate_key", broken)
    assert boundary.main(["keygen"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"memkv: internal error: ZeroDivisionError: \*\*\*\*; .*\n", said)


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    code = os.system(f"cd {tmp_path} && {sys.executable} -m memkv_server start --help 2>err | head -c 1 >out")
    assert (code, (tmp_path / "err").read_text()) == (0, "")
