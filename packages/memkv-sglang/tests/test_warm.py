# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from memkv_core.errors import ConfigError
from memkv_sglang import cli
from memkv_sglang.prompts import read_prompts
from memkv_sglang.warm import warm


class Engine(ThreadingHTTPServer):
    """Answers like sglang's ``/generate``: of every prompt 16 tokens short of all come from storage."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.details = True
        self.busy = self.busy_most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.busy += 1
            self.server.busy_most = max(self.server.busy_most, self.server.busy)
        threading.Event().wait(0.02)
        with self.server.lock:
            self.server.busy -= 1
        tokens = len(body.get("input_ids") or body["text"].split())
        if tokens == 13:
            self._answer(400, {"error": "unlucky"})
            return
        cached = max(0, tokens - 16)
        details = {"device": 0, "host": 0, "storage": cached} if self.server.details else None
        meta = {"prompt_tokens": tokens, "cached_tokens": cached, "cached_tokens_details": details}
        self._answer(200, {"text": "x", "meta_info": meta})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def write(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_every_form_of_a_prompt(tmp_path: Path) -> None:
    path = write(tmp_path, "a b", [1, 2], {"text": "a"}, {"prompt": "b"}, {"prompt": [3]}, {"input_ids": [4], "id": 9})
    path.write_text(path.read_text() + "\n  \n")
    assert [prompt.body for prompt in read_prompts(path)] == [
        {"text": "a b"}, {"input_ids": [1, 2]}, {"text": "a"}, {"text": "b"}, {"input_ids": [3]}, {"input_ids": [4]},
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["{", "1", '""', "[]", '[1, "2"]', "[-1]", "{}", '{"text": "a", "input_ids": [1]}'])
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'"fine"\n{line}\n')
    with pytest.raises(ConfigError, match="line 2"):
        list(read_prompts(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.jsonl"):
        list(read_prompts(tmp_path / "absent.jsonl"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        list(read_prompts(tmp_path / "binary"))


def test_tokens_are_counted_by_where_they_came_from(tmp_path: Path, engine: Engine) -> None:
    prompts = list(read_prompts(write(tmp_path, *[list(range(100))] * 10)))
    seen: list[int] = []
    with httpx.Client(base_url=engine.url) as client:
        report = warm(prompts, client, concurrency=3, on_prompt=lambda report: seen.append(report.prompt_count))
    assert (report.prompt_count, report.token_count) == (10, 1000)
    assert (report.restored_tokens, report.cached_tokens, report.recomputed_tokens) == (840, 0, 160)
    assert seen == list(range(1, 11))
    assert 1 < engine.busy_most <= 3
    assert all(body["sampling_params"]["max_new_tokens"] == 1 for body in engine.bodies)


def test_a_prompt_that_fails_does_not_stop_the_others(tmp_path: Path, engine: Engine) -> None:
    prompts = list(read_prompts(write(tmp_path, [1] * 20, [1] * 13, [1] * 20)))
    with httpx.Client(base_url=engine.url) as client:
        report = warm(prompts, client, concurrency=1)
    assert report.prompt_count == 2
    [(line, reason)] = report.failures
    assert line == 2
    assert "400" in reason
    assert "unlucky" in reason


def test_the_command_shows_a_table_or_json(tmp_path: Path, engine: Engine) -> None:
    path = write(tmp_path, [1] * 100, [2] * 100)
    runner = CliRunner()
    table = runner.invoke(cli.app, ["warm", str(path), "--url", engine.url])
    assert table.exit_code == 0, table.output
    assert "restored from MemKV" in table.stdout
    assert "168" in table.stdout
    encoded = runner.invoke(cli.app, ["warm", str(path), "--url", engine.url, "--json"])
    assert json.loads(encoded.stdout)["restored_tokens"] == 168
    engine.details = False
    assert "--enable-cache-report" in runner.invoke(cli.app, ["warm", str(path), "--url", engine.url]).stdout


def run(*arguments: str) -> tuple[int, str]:
    """The console script as a process: (exit code, stderr)."""
    command = [sys.executable, "-c", "from memkv_sglang.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_what_bad_input_gets(tmp_path: Path, engine: Engine) -> None:
    good, empty = str(write(tmp_path, [1])), tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for arguments, words in [
        ((good, "--url", "http://127.0.0.1:9"), ["127.0.0.1:9", "start sglang"]),
        ((good, "--url", "ftp://x"), ["ftp://x", "http://HOST:PORT"]),
        ((str(empty), "--url", engine.url), ["no prompts"]),
        ((str(tmp_path / "absent"), "--url", engine.url), ["absent"]),
    ]:
        code, stderr = run("warm", *arguments)
        assert code == 2, stderr
        assert len(stderr.strip().splitlines()) == 1, stderr
        assert all(word in stderr for word in words), stderr


def test_failed_prompts_end_in_code_1(tmp_path: Path, engine: Engine) -> None:
    code, stderr = run("warm", str(write(tmp_path, [1] * 13)), "--url", engine.url)
    assert code == 1
    assert "line 1" in stderr.splitlines()[-1]
