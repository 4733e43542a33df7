# SPDX-License-Identifier: Apache-2.0
"""The page as a person at a browser sees it: two real nodes, real clients at work, Debian's Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dashboard_rig.browser import DESKTOP, PHONE, Visit, browser
from dashboard_rig.load import MODELS, Load
from memkv_rig.cluster import Cluster
from playwright.sync_api import Browser, expect

from memkv_core.auth import admin_token

NUMBER = re.compile(r"[1-9]")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"), nodes=2, capacity="96MiB")
    settings = {name.removeprefix("MEMKV_").lower(): value for name, value in started.env.items()}
    with Load({**settings, "transport": "tcp"}):
        yield started
    started.down()


@pytest.fixture
def token(cluster: Cluster) -> str:
    return admin_token(bytes.fromhex(cluster.env["MEMKV_AUTH_KEY"]))


@pytest.fixture
def visit(chromium: Browser, cluster: Cluster) -> Iterator[Callable[..., Visit]]:
    """Opens a session of a browser on the first node; nothing that it asks for may be another host's."""
    opened: list[Visit] = []

    def open_visit(**settings: Any) -> Visit:
        opened.append(Visit(chromium, cluster.nodes[0]["admin"], **settings))
        return opened[-1]

    yield open_visit
    for each in opened:
        each.close()
        assert each.hosts() == {cluster.nodes[0]["admin"]}


def test_a_wrong_token_is_refused_and_the_right_one_opens(visit: Callable[..., Visit], token: str) -> None:
    guest = visit()
    page = guest.login("0" * 64)
    expect(page.get_by_role("alert")).to_have_text("That is not the token of this cluster's key.")
    assert page.url.endswith("/login")
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#live")).to_have_text("live")
    assert page.evaluate("document.cookie") == "", "no script can read it"
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Admin token")).to_be_visible()
    page.goto(guest.url)
    assert page.url.endswith("/login"), "the cookie is gone"


def test_it_shows_what_the_cluster_does(visit: Callable[..., Visit], token: str, cluster: Cluster) -> None:
    seen = visit()
    page = seen.login(token)
    seen.wait_for_points()
    expect(page.locator("#summary")).to_contain_text("2 of 2 nodes up")
    for tile in ("hits", "get", "latency", "used", "sessions"):
        expect(page.locator(f"#tile-{tile} .value")).to_have_text(NUMBER)
    for node in cluster.nodes:
        card = page.locator(f'[data-node="{node["address"]}"]')
        expect(card.locator(".node-head .pill")).to_have_text("healthy")
        expect(card.locator(".lane")).to_contain_text("serving")
        expect(card.locator(".drive .amount")).to_have_text(NUMBER)
    for name, identity in MODELS.items():
        row = page.locator("#namespaces tr", has_text=name)
        expect(row).to_contain_text(str(identity["model"]))
        expect(row.locator('[data-label="hit ratio"]')).to_have_text(NUMBER)
        expect(page.locator("#clients tr", has_text=name)).to_contain_text("tcp")
    row = page.locator("#namespaces tr", has_text="llama-70b")
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text("page_first")
    hits = row.locator('[data-label="hits"]')
    before = hits.inner_text()
    expect(hits).not_to_have_text(before)  # the page is live
    expect(row.locator("pre")).to_be_visible()  # and leaves open what the reader has opened
    assert seen.complaints == []


def test_what_made_room_is_told(visit: Callable[..., Visit], token: str) -> None:
    page = visit().login(token)
    row = page.locator("#capacity tr", has_text="oldest segment first")
    expect(row.locator('[data-label="records"]')).to_have_text(NUMBER)
    expect(page.locator("#capacity")).to_contain_text("a block that nobody reads stays")


@pytest.mark.parametrize("width", [PHONE[0], 320])
def test_a_phone_scrolls_down_only(visit: Callable[..., Visit], token: str, width: int) -> None:
    seen = visit(size=(width, PHONE[1]))
    page = seen.login(token)
    seen.wait_for_points()
    expect(page.locator("#namespaces tr", has_text="llama-70b")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(visit: Callable[..., Visit], token: str, scheme: str) -> None:
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light, dark = "rgb(244, 245, 247)", "rgb(15, 19, 25)"
    page = visit(size=DESKTOP, scheme=scheme).login(token)
    expect(page.locator("#live")).to_have_text("live")
    assert page.evaluate(paper) == (dark if scheme == "dark" else light), "as the system has it"
    for text, colour in (("Theme: light", light), ("Theme: dark", dark)):
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_text(text)
        assert page.evaluate(paper) == colour
    page.reload()
    assert page.evaluate(paper) == dark, "a choice is kept"


def test_a_node_that_dies_is_down_until_it_is_back(visit: Callable[..., Visit], token: str, cluster: Cluster) -> None:
    page = visit().login(token)
    other = page.locator(f'[data-node="{cluster.nodes[1]["address"]}"]')
    expect(other.locator(".node-head .pill")).to_have_text("healthy")
    cluster.kill(1)
    try:
        expect(other.locator(".node-head .pill")).to_have_text("down")
        expect(other.locator(".reason").first).to_contain_text("silent for")
        expect(page.locator("#summary")).to_contain_text("1 of 2 nodes up")
        expect(page.locator("#summary .pill")).to_have_text("degraded")
        expect(page.locator("#live")).to_have_text("live")
    finally:
        cluster.up()
    expect(other.locator(".node-head .pill")).to_have_text("healthy")
    expect(page.locator("#summary .pill")).to_have_text("healthy")


def test_the_page_outlives_its_own_node(visit: Callable[..., Visit], token: str, cluster: Cluster) -> None:
    seen = visit()
    page = seen.login(token)
    seen.wait_for_points()
    cluster.kill(0)
    try:
        expect(page.locator("#live")).to_have_text("reconnecting")
        expect(page.locator("#banner")).to_contain_text("has not answered")
        expect(page.locator("#tile-used .value")).to_have_text(NUMBER)
    finally:
        cluster.up()
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#summary")).to_contain_text("2 of 2 nodes up")
    assert page.url.rstrip("/") == seen.url, "without another login"


def test_no_script_but_the_nodes_own_runs(visit: Callable[..., Visit], token: str) -> None:
    seen = visit()
    page = seen.login(token)
    expect(page.locator("#live")).to_have_text("live")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.injected = true";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://192.0.2.1/beacon";
            document.body.append(image);
        }"""
    )
    assert page.evaluate("window.injected") is None
    assert any("Content Security Policy" in text for text in seen.complaints)
    seen.asked = [url for url in seen.asked if "192.0.2.1" not in url]  # asked for by the page, refused by its policy


def test_a_row_that_changes_its_rank_stays_the_same_row(visit: Callable[..., Visit], token: str) -> None:
    page = visit().login(token)
    expect(page.locator("#live")).to_have_text("live")
    told = page.evaluate(
        """async () => {
            const { h, show } = await import("/dashboard/dom.js");
            const place = document.createElement("div");
            const draw = (keys) => show(place, keys.map((key) => h("p", { "data-key": key || null }, key || "bare")));
            const said = () => [...place.children].map((child) => child.textContent).join(" ");
            const orders = [["a", "b", "c"], ["c", "a"], ["x", "", "a", "c"], ["", "c", "", "b"], [], ["a"]];
            const shown = [];
            let kept = true;
            for (const order of orders) {
                const before = new Map([...place.children].map((child) => [child.dataset.key, child]));
                draw(order);
                shown.push(said());
                for (const child of place.children) {
                    const known = before.get(child.dataset.key);
                    if (child.dataset.key && known && known !== child) kept = false;
                }
            }
            return { shown, kept };
        }"""
    )
    assert told == {"shown": ["a b c", "c a", "x bare a c", "bare c bare b", "", "a"], "kept": True}
