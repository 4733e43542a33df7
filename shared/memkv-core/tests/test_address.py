# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core.address import Address, parse_address, parse_addresses
from memkv_core.errors import ConfigError

GOOD = {
    "host-a": ("host-a", 9900),
    " host-a:9901 ": ("host-a", 9901),
    "Host-A.Example.": ("host-a.example", 9900),
    "10.0.0.1": ("10.0.0.1", 9900),
    "10.0.0.1:1": ("10.0.0.1", 1),
    "[::1]": ("::1", 9900),
    "[::1]:65535": ("::1", 65535),
    "[0:0:0:0:0:0:0:1]:9900": ("::1", 9900),
    "[fe80::1%eth0]:9900": ("fe80::1%eth0", 9900),
    "memkv_0.memkv.default.svc.cluster.local:9900": ("memkv_0.memkv.default.svc.cluster.local", 9900),
}

BAD = {
    "": "is empty",
    "   ": "is empty",
    "http://host:9900": "has a scheme",
    "::1": "IPv6 without brackets",
    "::1:9900": "IPv6 without brackets",
    "[::1": "bracket",
    "[::1]9900": "bracket",
    "[host]:9900": "IPv6 address only",
    "[::zz]:9900": "no IP address",
    "10.0.0.300": "no IP address",
    "1.2.3": "no IP address",
    "host name:9900": "no host name",
    "-host:9900": "no host name",
    ":9900": "no host name",
    "a..b": "no host name",
    "a" * 64: "no host name",
    "host:": "port '' is not a number",
    "host:0": "port '0' is not a number",
    "host:65536": "port '65536' is not a number",
    "host:-1": "port '-1' is not a number",
    "host:99x": "port '99x' is not a number",
    "host:٩٩": "is not a number",
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_good_address(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(parse_address(text))) == expected


@pytest.mark.parametrize(("text", "cause"), BAD.items())
def test_bad_address_names_the_cause(text: str, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert cause in caught.value.cause
    assert "host:9900" in (caught.value.remedy or "")
    assert "\n" not in str(caught.value)


def test_port_zero_only_for_a_listener() -> None:
    assert parse_address("127.0.0.1:0", port_min=0) == ("127.0.0.1", 0)


def test_list_keeps_order_and_refuses_repeats() -> None:
    assert parse_addresses(["b", "a:1", "a:2"]) == (Address("b", 9900), Address("a", 1), Address("a", 2))
    with pytest.raises(ConfigError, match="listed twice"):
        parse_addresses(["a", "a"])
    with pytest.raises(ConfigError, match="'A:9900' is listed as 'a'"):
        parse_addresses(["a", "b", "A:9900"])
    with pytest.raises(ConfigError, match="listed as"):
        parse_addresses(["[::1]:9900", "[0::1]"])


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert 1 <= address.port <= 65535
    assert parse_address(str(address)) == address
