# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memkv_core.errors import ConfigError
from memkv_core.transports import verbs
from memkv_core.transports.verbs import DeviceSpec

MAPPED = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"


def test_entries_of_the_setting() -> None:
    assert DeviceSpec.parse("mlx5_0") == ("mlx5_0", 0, -1)
    assert DeviceSpec.parse(" mlx5_0:2 ") == ("mlx5_0", 2, -1)
    assert DeviceSpec.parse("mlx5_0:1:3") == ("mlx5_0", 1, 3)


@pytest.mark.parametrize("text", ["", ":1", "mlx5_0:", "mlx5_0:x", "mlx5_0:1:2:3", "../x", "mlx5_0:-1", "mlx5_0:²"])
def test_no_entries_of_the_setting(text: str) -> None:
    with pytest.raises(ConfigError, match=r"MEMKV_RDMA_DEVICES: .* is no device; name it as mlx5_0, mlx5_0:1"):
        DeviceSpec.parse(text)


def test_texts() -> None:
    assert verbs.port_gid_text(MAPPED) == "0000:0000:0000:0000:0000:ffff:0a00:0001"
    assert verbs.status_name(12) == "RETRY_EXC_ERR"
    assert verbs.status_name(99) == "status 99"
