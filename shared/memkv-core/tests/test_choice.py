# SPDX-License-Identifier: Apache-2.0
"""Which transport is chosen, and what is said of it; every kind of bad input in one line."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from memkv_core.config import ClientConfig
from memkv_core.errors import ConfigError
from memkv_core.testing.fake_verbs import Fabric, FakeVerbs
from memkv_core.transports.choice import Choice, Found, Wanted, asks_for_devices, choose
from memkv_core.transports.library import load_verbs
from memkv_core.transports.make import make_transport
from memkv_core.transports.rdma import RdmaTransport
from memkv_core.transports.shm import ShmTransport
from memkv_core.transports.tcp import TCPTransport
from memkv_core.transports.verbs import DeviceUnavailableError, Verbs

UP, DOWN, NONE = Found(True, None), Found(True, "it is down"), Found(False, "no pyverbs")


@pytest.mark.parametrize(
    ("wanted", "devices", "found", "chosen"),
    [
        ("tcp", (), None, Choice("tcp", "MEMKV_TRANSPORT says so")),
        ("tcp", ("a",), None, Choice("tcp", "MEMKV_TRANSPORT says so")),
        ("shm", ("a",), None, Choice("shm", "MEMKV_TRANSPORT says so")),
        ("auto", (), None, Choice("local", "MEMKV_RDMA_DEVICES is not set")),
        ("auto", ("a", "b"), UP, Choice("rdma", "MEMKV_RDMA_DEVICES names a,b")),
        ("auto", ("a",), DOWN, Choice("rdma", "by tcp until a device can be used: it is down")),
        ("auto", ("a",), NONE, Choice("local", "no RDMA: no pyverbs")),
        ("rdma", ("a",), UP, Choice("rdma", "MEMKV_RDMA_DEVICES names a")),
    ],
)
def test_the_table(wanted: Wanted, devices: tuple[str, ...], found: Found | None, chosen: Choice) -> None:
    assert asks_for_devices(wanted, devices) == (found is not None)
    assert choose(wanted, devices, found) == chosen


def test_rdma_is_loud() -> None:
    with pytest.raises(ConfigError, match="transport=rdma, and no device is named; set MEMKV_RDMA_DEVICES"):
        asks_for_devices("rdma", ())
    for found in (DOWN, NONE):
        with pytest.raises(DeviceUnavailableError, match=f"{found.problem}; see `memkv net topo`"):
            choose("rdma", ("a",), found)


# -- with devices -----------------------------------------------------------------------------------------------------
def config(**settings: Any) -> ClientConfig:
    return ClientConfig.load(**{"servers": ["a:9900", "b:9900"], "auth_key": "00" * 32, "license": "x", **settings})


def devices(*, down: tuple[str, ...] = ()) -> Verbs:
    library = FakeVerbs(Fabric(), ["dev0", "dev1"])
    for name in down:
        library.devices[name].port_down()
    return library


def broken() -> Verbs:
    raise DeviceUnavailableError("pyverbs does not import", remedy="install python3-pyverbs")


def made(caplog: pytest.LogCaptureFixture, load: Any, **settings: Any) -> tuple[Any, list[str]]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "memkv_core.transport"):
        transport = make_transport(lambda lane: None, config(**settings), load=load)  # type: ignore[arg-type,return-value]
    transport.close()
    return transport, [record.getMessage() for record in caplog.records]


def test_without_devices_it_is_not_even_loaded(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Verbs:
        raise AssertionError("loaded")

    transport, lines = made(caplog, load)
    assert type(transport) is ShmTransport
    assert lines[0] == "transport=auto: MEMKV_RDMA_DEVICES is not set"
    assert type(made(caplog, load, transport="tcp", rdma_devices="dev0")[0]) is TCPTransport


def test_auto_with_a_device(caplog: pytest.LogCaptureFixture) -> None:
    transport, lines = made(caplog, devices, rdma_devices="dev0,dev1")
    assert isinstance(transport, RdmaTransport)
    assert lines[0] == "transport=rdma: MEMKV_RDMA_DEVICES names dev0,dev1"
    assert lines[1].startswith("rdma staging up to 1024 MiB in slots of 16 MiB")


def test_auto_with_one_of_two(caplog: pytest.LogCaptureFixture) -> None:
    transport, lines = made(caplog, lambda: devices(down=("dev1",)), rdma_devices="dev0,dev1")
    assert isinstance(transport, RdmaTransport)
    assert lines[0].startswith("rdma: RDMA device dev1 is not active: port 1 is DOWN; check the cable")
    assert lines[1].startswith("transport=rdma: MEMKV_RDMA_DEVICES names")


@pytest.mark.parametrize(
    ("names", "down", "said"),
    [
        ("dev0", ("dev0",), "RDMA device dev0 is not active: port 1 is DOWN"),
        ("mlx5_9", (), "no RDMA device mlx5_9; this host has dev0, dev1"),
        ("dev0:2", (), "RDMA device dev0 has no port 2; it has 1"),
        ("dev0:1:7", (), "RDMA device dev0 port 1 has no GID at index 7; it has 0"),
    ],
)
def test_a_device_that_cannot_be_used(
    caplog: pytest.LogCaptureFixture, names: str, down: tuple[str, ...], said: str
) -> None:
    """auto falls back and will try again; rdma fails at the start. One line each."""
    transport, lines = made(caplog, lambda: devices(down=down), rdma_devices=names)
    assert isinstance(transport, RdmaTransport)
    assert lines[0].startswith(f"rdma: {said}")
    assert lines[1].startswith(f"transport=rdma: by tcp until a device can be used: {said}")
    with pytest.raises(DeviceUnavailableError) as caught:
        made(caplog, lambda: devices(down=down), rdma_devices=names, transport="rdma")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_no_library(caplog: pytest.LogCaptureFixture) -> None:
    transport, lines = made(caplog, broken, rdma_devices="dev0")
    assert type(transport) is ShmTransport
    assert lines == ["transport=auto: no RDMA: pyverbs does not import; install python3-pyverbs"]
    with pytest.raises(DeviceUnavailableError, match="pyverbs does not import"):
        made(caplog, broken, rdma_devices="dev0", transport="rdma")


def test_the_real_library_says_why_not() -> None:
    """On a machine without RDMA: an error of one line, never an ImportError."""
    said = ""
    try:
        assert isinstance(load_verbs().device_names(), list)
    except DeviceUnavailableError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["", "a b", "mlx5_0:x", "mlx5_0:1:2:3", "a/b", "mlx5_0,mlx5_0"])
def test_names_that_name_nothing(name: str) -> None:
    if name:
        with pytest.raises(ConfigError):
            config(rdma_devices=name)
    else:
        assert config(rdma_devices=name).rdma_devices == ()
