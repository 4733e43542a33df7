# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import urllib.request
from pathlib import Path

import pytest

from memkv_core.errors import ConfigError
from memkv_server.cli import doc


def test_an_installation_without_a_site_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doc, "SITE", tmp_path)
    with pytest.raises(ConfigError, match="no documentation; install a wheel"):
        doc.site()


def test_pages_are_served_and_folders_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("a page")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(doc, "SITE", tmp_path)
    with doc.serve(doc.site(), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(f"{base}/index.html", timeout=10) as reply:
            assert reply.read() == b"a page"
        for path in ("/folder/", "/../" * 5 + "etc/passwd", "/absent"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(base + path, timeout=10)
            assert caught.value.code == 404
            caught.value.close()
        server.shutdown()
        thread.join()
