# SPDX-License-Identifier: Apache-2.0
"""What the binding makes of what a device says and refuses; pyverbs itself is tried in ``integration-tests/rdma``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from memkv_core.transports import memlock, verbs
from memkv_core.transports.pyverbs_binding import PyverbsVerbs
from memkv_core.transports.pyverbs_load import Modules
from memkv_core.transports.verbs import Access, DeviceSpec

MAPPED = "0000:0000:0000:0000:0000:ffff:0a00:0001"


class RefusedError(Exception):
    """pyverbs's error."""


class Raw:
    """A device with two ports, the second active; whatever is in ``refuses`` raises."""

    refuses: frozenset[str] = frozenset()

    def __init__(self, *_: Any, **__: Any) -> None:
        self._do("open")

    def _do(self, name: str) -> None:
        if name in self.refuses:
            raise RefusedError(f"{name}: Errno: 12, Cannot allocate memory")

    def query_device(self) -> Any:
        self._do("query")
        return SimpleNamespace(
            phys_port_cnt=2, max_sge=30, max_sge_rd=0, max_qp_rd_atom=16, max_qp_init_rd_atom=8, max_qp_wr=8192,
            max_cqe=4096, max_qp=1000,
        )  # fmt: skip

    def query_port(self, number: int) -> Any:
        state = 4 if number == 2 else 1
        return SimpleNamespace(
            state=state, active_mtu=4, lid=7, link_layer=2, gid_tbl_len=256, max_msg_sz=1 << 31,
        )  # fmt: skip

    def query_gid_table(self, length: int) -> list[Any]:
        assert length == 512
        return [
            SimpleNamespace(port_num=port, gid_index=place, gid_type=kind, gid_str=lambda: MAPPED)
            for port, place, kind in ((2, 3, 2), (2, 2, 1), (1, 0, 2))
        ]

    def close(self) -> None:
        self._do("close")


def verbs_over(raw: type[Raw], *, has_driver: bool = True) -> PyverbsVerbs:
    def get_device_list() -> list[Any]:
        if not has_driver:
            raise RefusedError("Failed to get IB devices list: Function not implemented")
        return [SimpleNamespace(name=b"mlx5_1"), SimpleNamespace(name=b"mlx5_0")]

    device = SimpleNamespace(get_device_list=get_device_list, Context=raw)
    pd = SimpleNamespace(PD=lambda context: raw())
    mr = SimpleNamespace(MR=lambda *_, **__: raw())
    rest: Any = SimpleNamespace()
    return PyverbsVerbs(Modules(device, pd, mr, rest, rest, rest, rest, RefusedError, "44"))


def refusing(*names: str) -> type[Raw]:
    return type("Refusing", (Raw,), {"refuses": frozenset(names)})


def test_what_a_device_says() -> None:
    found = verbs_over(Raw)
    assert (found.name, found.device_names()) == ("pyverbs on rdma-core 44", ["mlx5_0", "mlx5_1"])
    device = found.open(DeviceSpec("mlx5_0")).device
    assert (device.port.number, device.port.state, device.port.link_layer) == (2, verbs.PortState.ACTIVE, "Ethernet")
    assert [(gid.place, gid.kind) for gid in device.port.gids] == [(2, "RoCE v1"), (3, "RoCE v2")]
    assert device.gid.place == 3
    assert (device.sge_max, device.reads_max, device.message_bytes_max) == (verbs.PARTS_MAX, 8, 1 << 30)
    assert found.open(DeviceSpec("mlx5_0", 2, 2)).device.gid.kind == "RoCE v1"


def test_a_host_without_the_kernels_part() -> None:
    found = verbs_over(Raw, has_driver=False)
    assert found.device_names() == []
    with pytest.raises(verbs.DeviceUnavailableError, match="no RDMA device mlx5_0; this host has none"):
        found.open(DeviceSpec("mlx5_0"))


@pytest.mark.parametrize(
    ("refused", "spec", "told"),
    [
        ("open", DeviceSpec("mlx5_0"), r"mlx5_0 cannot be opened: open: .*; see that /dev/infiniband can be read"),
        ("query", DeviceSpec("mlx5_0"), "mlx5_0 cannot be queried: query: "),
        ("", DeviceSpec("mlx5_0", 1), "mlx5_0 is not active: port 1 is DOWN; check the cable"),
        ("", DeviceSpec("mlx5_0", 2, 9), "no GID at index 9; it has 2, 3"),
    ],
)
def test_a_device_that_cannot_be_used(refused: str, spec: DeviceSpec, told: str) -> None:
    with pytest.raises(verbs.DeviceUnavailableError, match=told) as raised:
        verbs_over(refusing(refused)).open(spec)
    assert "\n" not in str(raised.value)


def test_memory_that_cannot_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = refusing()
    domain = verbs_over(raw).open(DeviceSpec("mlx5_0")).protection_domain()
    raw.refuses = frozenset({"open"})
    monkeypatch.setattr(memlock, "shortfall", lambda count: None)
    with pytest.raises(verbs.RegistrationError, match="64 bytes cannot be registered: open: Errno: 12"):
        domain.register(bytearray(64), Access.LOCAL_WRITE)
    monkeypatch.setattr(memlock, "shortfall", lambda count: f"RLIMIT_MEMLOCK is 1 bytes, {count} are needed")
    with pytest.raises(verbs.RegistrationError, match="64 bytes cannot be registered: RLIMIT_MEMLOCK is 1 bytes, 64"):
        domain.register(bytearray(64), Access.LOCAL_WRITE)


def test_what_a_device_does_not_let_go_of_is_an_error_of_ours() -> None:
    raw = refusing()
    context = verbs_over(raw).open(DeviceSpec("mlx5_0"))
    raw.refuses = frozenset({"close"})
    with pytest.raises(verbs.VerbsError, match="mlx5_0 cannot be closed: close: "):
        context.close()
    raw.refuses = frozenset()
    context.close()
