# SPDX-License-Identifier: Apache-2.0
"""The Helm chart: linted and rendered by Helm's own engine, held against the schemas of Kubernetes, and a real node run
with the settings, probes and hooks that it renders. Not installed: there is no cluster here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_rig.node import DeployedNode, credentials

from memkv_server.config import ServerConfig

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this platform")
kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

CHART = Path(__file__).parents[2] / "packages/memkv-server/deploy/helm/memkv"
KUBERNETES = "1.31"
EVERYTHING: dict[str, Any] = {
    "replicas": 3,
    "drives": [
        {"name": "a", "size": "10Gi", "capacity": "100%", "storageClass": "fast"},
        {"name": "b", "hostPath": "/mnt/nvme0/memkv", "capacity": "800GiB"},
    ],
    "storage": {"mode": "direct", "durability": "strict"},
    "memoryMaxSize": "8GiB",
    "namespaces": [{"match": "team-*", "quota": "1GiB", "ttl": "7d"}],
    "antiAffinity": "preferred",
    "hostNetwork": True,
    "priorityClassName": "high",
    "nodeSelector": {"disk": "nvme"},
    "tolerations": [{"operator": "Exists"}],
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
VALUES: dict[str, dict[str, Any]] = {"defaults": {}, "everything": EVERYTHING}


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests by kind."""
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="kv", namespace="inference")
    documents = [
        document
        for path, text in texts.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing_wrong(values: dict[str, Any]) -> None:
    report = helm.lint(str(CHART), values, strict=True)
    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize(
    "wrong", [{"replicas": 0}, {"drives": []}, {"drives": [{"name": "a", "capacity": "much", "size": "1Gi"}]}, {"n": 1}]
)
def test_values_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    assert helm.lint(str(CHART), wrong)["errors"] != []


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_would_take_what_is_rendered(values: dict[str, Any]) -> None:
    kinds = rendered(values)
    wanted = {"StatefulSet", "Service", "ConfigMap", "PodDisruptionBudget"}
    assert set(kinds) == wanted | ({"ServiceMonitor"} if values else set())
    for kind in wanted:
        kubernetes.validate(kinds[kind], KUBERNETES, strict=True)  # raises


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_parts_fit_together(values: dict[str, Any]) -> None:
    kinds = rendered(values)
    spec = kinds["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (
        spec["selector"]["matchLabels"],
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert spec["serviceName"] == kinds["Service"]["metadata"]["name"]
    assert kinds["Service"]["spec"]["clusterIP"] == "None"
    name, service = kinds["StatefulSet"]["metadata"]["name"], kinds["Service"]["metadata"]["name"]
    settings = yaml.safe_load(kinds["ConfigMap"]["data"]["config.yaml"])
    pods = [f"{name}-{index}.{service}:9900" for index in range(spec["replicas"])]
    assert settings["network"]["peers"] == pods, "every node shows all of them"
    volumes = {each["name"] for each in pod["volumes"]}
    claims = {each["metadata"]["name"] for each in spec["volumeClaimTemplates"] or []}
    assert {each["name"] for each in container["volumeMounts"]} == volumes | claims
    assert not volumes & claims
    ports = {each["name"] for each in container["ports"]}
    assert {each["targetPort"] for each in kinds["Service"]["spec"]["ports"]} == ports
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {next(iter(probe.values()))["port"] for probe in probes} <= ports
    if "ServiceMonitor" in kinds:
        monitor = kinds["ServiceMonitor"]["spec"]
        assert monitor["selector"]["matchLabels"].items() <= kinds["Service"]["metadata"]["labels"].items()
        assert monitor["endpoints"][0]["port"] in {each["name"] for each in kinds["Service"]["spec"]["ports"]}
        # The job's name, by which the alerts know the nodes.
        assert kinds["Service"]["metadata"]["labels"][monitor["jobLabel"]] == "memkv"


def test_settings_are_those_of_a_node(tmp_path: Path) -> None:
    credentials(tmp_path)
    text = rendered(EVERYTHING)["ConfigMap"]["data"]["config.yaml"]
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("/etc/memkv/secret", str(tmp_path)).replace("/etc/memkv", str(tmp_path)))
    settings = ServerConfig.load(file).checked()
    assert (settings.storage.mode, settings.storage.durability) == ("direct", "strict")
    assert [str(drive.path) for drive in settings.storage.drives] == ["/data/a/memkv", "/data/b/memkv"]
    assert settings.namespace_rules[0]["ttl_s"] == 7 * 86400
    assert settings.log.format == "json"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DeployedNode]:
    """A node as the chart's container would run it."""
    etc = tmp_path / "etc"
    etc.mkdir()
    credentials(etc)
    moved = {
        "/etc/memkv/secret": str(etc), "/etc/memkv": str(etc), "/data": str(tmp_path / "data"),
        "0.0.0.0:9900": "127.0.0.1:0", "0.0.0.0:9901": "127.0.0.1:0",
    }  # fmt: skip
    kinds = rendered({"drives": [{"name": "data", "size": "1Gi", "capacity": "128MiB"}]})
    text = kinds["ConfigMap"]["data"]["config.yaml"]
    for fixed, place in moved.items():
        text = text.replace(fixed, place)
    (etc / "config.yaml").write_text(text)
    (container,) = kinds["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    made = DeployedNode(tmp_path, container["args"], moved)
    yield made
    made.close()


def test_a_node_answers_the_probes_drains_and_stops(node: DeployedNode) -> None:
    pod = rendered({})["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = [container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe")]
    assert [node.get(path) for path in probes] == [200, 200]
    hook = node.run(*container["lifecycle"]["preStop"]["exec"]["command"])
    assert hook.returncode == 0, hook.stdout + hook.stderr
    assert [node.get(path) for path in probes] == [503, 503]
    assert node.stop(float(pod["terminationGracePeriodSeconds"])) == 0
