# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memkv_core.errors import InvalidArgumentError
from memkv_core.testing.loopback import LoopbackCluster


def test_a_client_and_two_servers() -> None:
    with LoopbackCluster(["a:9900", "b:9900"], lanes=2) as cluster, cluster.client() as client:
        keys = [b"k%d" % number for number in range(100)]
        values = [key * 50 for key in keys]
        assert client.put(keys, values, meta=keys) == [True] * 100
        held = [len(engine.blocks) for server in cluster.servers.values() for engine in server.engines]
        assert sum(held) == 100
        assert min(held) > 5
        targets = [bytearray(300) for _ in keys]
        assert client.get(keys, targets, with_meta=True) == [
            (len(value), value[: len(value) // 50]) for value in values
        ]
        assert [bytes(target).rstrip(b"\0") for target in targets] == values
        assert client.exists([b"k1", b"none"]) == [True, False]
        assert client.lookup([*keys[:7], b"none", b"k8"]) == 7
        assert client.delete([b"k1", b"none"]) == [True, False]
        with pytest.raises(InvalidArgumentError):
            client.put([b""], [b"x"])


def test_one_server_down() -> None:
    with LoopbackCluster(["a:9900", "b:9900"]) as cluster, cluster.client() as client:
        keys = [b"k%d" % number for number in range(50)]
        client.put(keys, keys)
        cluster.servers["a:9900"].down = True
        on_b = {key for _, key in cluster.servers["b:9900"].engines[0].blocks}
        assert client.exists(keys) == [key in on_b for key in keys]
        assert 0 < len(on_b) < 50


def test_namespaces_and_identities() -> None:
    with (
        LoopbackCluster() as cluster,
        cluster.client(identity={"dtype": "bf16"}) as one,
        cluster.client(identity={"dtype": "fp16"}) as two,
        cluster.client(identity={"dtype": "bf16"}, namespace="pinned") as pinned,
        cluster.client(identity={"dtype": "fp16"}, namespace="pinned") as stranger,
    ):
        assert one.put([b"k"], [b"bf16"]) == [True]
        assert two.exists([b"k"]) == [False]
        assert pinned.put([b"k"], [b"bf16"]) == [True]
        assert stranger.exists([b"k"]) == [False]
        assert stranger.stats().misses == {"refused": 1}


def test_a_client_with_another_key_learns_nothing() -> None:
    with LoopbackCluster() as cluster, cluster.client() as client:
        client.put([b"k"], [b"v"])
        with cluster.client(auth_key="00" * 32) as stranger:
            assert stranger.exists([b"k", b"none"]) == [False, False]
            assert stranger.get([b"k"], [bytearray(1)]) == [None]
            assert stranger.put([b"k"], [b"w"]) == [False]
        assert client.exists([b"k"]) == [True]
