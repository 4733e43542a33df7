# SPDX-License-Identifier: Apache-2.0
"""The built site, as it lies in the server's wheel; and what a page says of messages and alerts is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import memkv_server

ROOT = Path(__file__).parents[2]
SITE = Path(memkv_server.__file__).with_name("site")
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text()


class Loads(HTMLParser):
    """What a browser loads by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag, "")
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev"):
            return
        if (url := given.get(name)) is not None:
            self.urls.append(url)


@pytest.fixture(scope="module")
def site() -> Path:
    if not SITE.is_dir():
        pytest.skip("this is no wheel that `nox -s build` made: it has no site")
    return SITE


def test_the_site_is_whole_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "troubleshooting.html", "protocol.html"} <= {page.name for page in pages}
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.urls
        for url in loads.urls:
            assert not re.match(r"(https?:)?//", url), f"{page.name}: {url}"
            if page.name != "404.html" and not url.startswith("data:"):
                assert (page.parent / url.split("?")[0].split("#")[0]).exists(), f"{page.name}: {url}"


def test_memkv_doc_serves_it(site: Path) -> None:
    memkv = str(Path(sys.executable).with_name("memkv"))
    server = subprocess.Popen([memkv, "doc", "--no-open"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert b"<h1" in (page := reply.read())
            assert b"MemKV" in page
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url.replace("index.html", "assets/"), timeout=10)
        assert caught.value.code == 404
        caught.value.close()
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_every_alert_has_its_paragraph() -> None:
    rules = yaml.safe_load((ROOT / "packages/memkv-server/deploy/prometheus/rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    headings = re.findall(r"^### (.*)$", TROUBLESHOOTING, re.MULTILINE)
    assert {name for heading in headings for name in heading.split(", ")} == alerts


def test_messages_that_are_explained_are_said_somewhere() -> None:
    texts = [path.read_text() for path in [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("shared/*/src/**/*.py")]]
    said = "\n".join(re.sub(r'"\s*\n\s*f?"', "", text) for text in texts)  # literals that go on in the next line
    messages = re.findall(r"^\| `([^`]+)` \|", TROUBLESHOOTING, re.MULTILINE)
    assert len(messages) > 20
    for message in messages:
        words = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
        assert re.search(".{0,80}".join(words), said), f"nothing says {message!r}"
