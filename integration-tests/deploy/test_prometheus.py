# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the alert rules on what a real Prometheus scrapes from a live node and a live client."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from memkv_rig.cluster import Cluster, wait_until

from memkv_core.auth import admin_token

DEPLOY = Path(__file__).parents[2] / "packages/memkv-server/deploy"
RULES = DEPLOY / "prometheus/rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/memkv.json").read_text())
VARIABLES = {"$job": "memkv", "$instance": ".*", "$client_job": "engine", "$__rate_interval": "1m"}
OF_PROMETHEUS = {"__name__", "job", "instance"}
# Label values that a healthy cluster under this load does not have.
NOT_SEEN = {("state", "read-only")}

CLIENT = """
import itertools, sys, time
from memkv_core import Client, ClientConfig
from memkv_core.guard import Guard
guard = Guard("memkv_test")
client = Client(ClientConfig.load())
keys = [f"k{n}" for n in range(64)]
targets = [bytearray(65536) for _ in keys]
for turn in itertools.count():
    names = [f"{key}-{turn}" for key in keys]
    client.put(names, [bytes(65536)] * 64)
    client.get(names, targets)
    client.get(["absent"], targets[:1])
    client.exists(names)
    if turn == 5:
        print("loaded", flush=True)
    time.sleep(0.05)
"""


def expressions() -> list[tuple[str, str]]:
    """(where, PromQL) of every panel and rule, the dashboard's variables filled in."""
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            assert "$" not in text, text
            found.append((f"panel {panel['id']}{target['refId']} {panel['title']}", text))
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        found += [(rule["alert"], rule["expr"]) for rule in group["rules"]]
    return found


EXPRESSIONS = expressions()


class Prometheus:
    """A server of its own, on a free port."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address={self.url.removeprefix('http://')}"], stdout=log, stderr=log,
            )  # fmt: skip

    def ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as reply:
            return json.load(reply)["data"]

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return {each["health"] for each in self.ask("targets")["activeTargets"]} == {"up"}
        except OSError:
            return False

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a node in mode direct and a client with load on it, and has evaluated the rules."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    cluster = Cluster(folder / "cluster", capacity="256MiB")
    client: subprocess.Popen[str] | None = None
    server: Prometheus | None = None
    try:
        env = {**os.environ, **cluster.env, "MEMKV_PROMETHEUS_BIND": "127.0.0.1:0", "PYTHONUNBUFFERED": "1"}
        logging = "import logging; logging.basicConfig(level='INFO', stream=__import__('sys').stdout)\n"
        client = subprocess.Popen([sys.executable, "-c", logging + CLIENT], stdout=subprocess.PIPE, env=env, text=True)
        assert client.stdout is not None
        exported = ""
        for line in client.stdout:
            exported = found[1] if (found := re.search(r"metrics at http://([^/]+)/", line)) else exported
            if line.strip() == "loaded":
                break
        token = folder / "token"
        token.write_text(admin_token(bytes.fromhex(cluster.env["MEMKV_AUTH_KEY"])))
        server = scraping = Prometheus(folder, {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "memkv", "metrics_path": "/v1/metrics", "authorization": {"credentials_file": str(token)},
                 "static_configs": [{"targets": [node["admin"] for node in cluster.nodes]}]},
                {"job_name": "engine", "static_configs": [{"targets": [exported]}]},
            ],
        })  # fmt: skip
        assert wait_until(server.ready), server.log.read_text()
        # Evictions begin, so that every metric has something to say; then two more scrapes, for the rates.
        evicting = "sum(increase(memkv_evicted_segments_total[1m])) > 0"
        assert wait_until(lambda: bool(scraping.ask("query", query=evicting)["result"]), 120)
        time.sleep(3)
        yield server
    finally:
        if client is not None:
            client.terminate()
            client.communicate(timeout=30)
        if server is not None:
            server.close()
        cluster.down()


@pytest.fixture(scope="module")
def series(prometheus: Prometheus) -> list[dict[str, str]]:
    """Every series that was scraped: its labels, ``__name__`` among them."""
    found: list[dict[str, str]] = prometheus.ask("series", **{"match[]": '{__name__=~"memkv_.*|up"}'})
    return found


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_every_metric_and_label_that_is_used_is_scraped(
    series: list[dict[str, str]], prometheus: Prometheus, where: str, text: str
) -> None:
    names = set(re.findall(r"\b(memkv_\w+|up)\b(?=[\[{\s)]|$)", text))
    assert names, text
    labels_of = {name: {label for each in series if each["__name__"] == name for label in each} for name in names}
    for name, labels in labels_of.items():
        assert labels, f"{where}: nothing is scraped under {name}"
    for name, matchers in re.findall(r"\b(memkv_\w+|up)\{([^}]*)\}", text):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', matchers):
            assert label in labels_of[name], f"{where}: {name} has no label {label}"
            if operator == "=" and (label, value) not in NOT_SEEN:
                values = {each.get(label) for each in series if each["__name__"] == name}
                assert value in values, f"{where}: {name} never has {label}={value}"
    for labels in re.findall(r"\bby \(([^)]*)\)", text):
        for label in re.split(r",\s*", labels):
            assert any(label in known for known in labels_of.values()), f"{where}: no metric has the label {label}"
    prometheus.ask("query", query=text)  # raises where it is no PromQL


def test_what_a_panel_says_of_a_series_it_has(prometheus: Prometheus) -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            grouped = [set(re.split(r",\s*", group)) for group in re.findall(r"\bby \(([^)]*)\)", target["expr"])]
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert grouped, f"{panel['title']}: {label}"
                assert all(label in group for group in grouped if group != {"le"}), f"{panel['title']}: {label}"


def test_panels_show_something_under_load(prometheus: Prometheus) -> None:
    quiet = {"Time of a sync", "Drives not online"}  # durability relaxed, drives that are well
    for where, text in EXPRESSIONS:
        if where.startswith("panel ") and where.split(" ", 2)[2] not in quiet:
            assert prometheus.ask("query", query=text)["result"], f"{where} shows nothing: {text}"


def test_rules_are_evaluated_and_nothing_of_a_healthy_cluster_pages(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == sum(1 for where, _ in EXPRESSIONS if not where.startswith("panel "))
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    assert not [rule["name"] for rule in rules if rule["state"] == "firing" and rule["labels"]["severity"] == "page"]


def test_alerts_fire_on_what_they_are_for() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    ran = subprocess.run(
        ["promtool", "test", "rules", "rules.test.yml"], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
