# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from memkv_core.errors import ConfigError
from memkv_core.testing.socket_server import SocketServer
from memkv_lmcache.limits import CALL_TIMEOUT_MS_MAX, IO_THREADS_COUNT, LOOKUP_THREADS_COUNT
from memkv_lmcache.options import Options, plugin_start

START = "storage_plugin.memkv."


def test_in_process_keys_stand_under_the_plugins_name() -> None:
    options = Options.for_in_process(
        {
            "storage_plugin.memkv.module_path": "memkv_lmcache.backend",
            "storage_plugin.memkv.class_name": "MemKVStorageBackend",
            "storage_plugin.memkv.prefix": "fleet-a",
            "storage_plugin.memkv.put_queue_mb": 64,
            "storage_plugin.memkv.timeout_ms": 900,
            "storage_plugin.other.prefix": "not mine",
            "save_chunk_meta": False,
        },
        START,
    )
    assert (options.prefix, options.put_queue_mb, dict(options.client)) == ("fleet-a", 64, {"timeout_ms": 900})


@pytest.mark.parametrize("extra", [None, {}])
def test_nothing_need_be_set(extra: Any) -> None:
    assert Options.for_in_process(extra, START) == Options(client={})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("put_queue_mb", "64", "put_queue_mb = '64'"),
        ("put_queue_mb", 0, "1 to"),
        ("io_threads", True, "io_threads = True"),
        ("put_que_mb", 64, "did you mean 'put_queue_mb'"),
        ("tag", "a\nb", "tag ="),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"storage_plugin\.memkv") as caught:
        Options.for_in_process({START + key: value}, START)
    assert words in str(caught.value)


def test_the_queue_is_no_setting_of_mp_mode() -> None:
    with pytest.raises(ConfigError, match="put_queue_mb"):
        Options.for_mp({"put_queue_mb": 64})


def test_a_plugin_finds_its_own_name() -> None:
    extra = {
        "storage_plugin.first.module_path": "their.backend",
        "storage_plugin.kv.module_path": "memkv_lmcache.backend",
        "remote_storage_plugin.far.module_path": "memkv_lmcache.connector",
    }
    assert plugin_start(extra, "storage_plugin", "memkv_lmcache.backend") == "storage_plugin.kv."
    assert plugin_start(extra, "remote_storage_plugin", "memkv_lmcache.connector") == "remote_storage_plugin.far."
    assert plugin_start(None, "storage_plugin", "memkv_lmcache.backend") == "storage_plugin.memkv."


def test_there_are_connections_for_all_threads_unless_set(server: SocketServer) -> None:
    made = Options.for_mp({}).client_config(timeout_ms_max=CALL_TIMEOUT_MS_MAX)
    assert made.connections == 2 * IO_THREADS_COUNT + LOOKUP_THREADS_COUNT
    made = Options.for_mp({"connections": 3, "timeout_ms": 500_000}).client_config(timeout_ms_max=CALL_TIMEOUT_MS_MAX)
    assert (made.connections, made.timeout_ms) == (3, CALL_TIMEOUT_MS_MAX)
