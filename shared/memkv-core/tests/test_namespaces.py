# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_core import limits
from memkv_core.errors import ConfigError
from memkv_core.namespaces import canonical_identity, choose_namespace, identity_digest

IDENTITIES = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=6
)


@given(IDENTITIES, st.randoms())
def test_canonical(identity: dict[str, Any], chance: Any) -> None:
    items = list(identity.items())
    chance.shuffle(items)
    encoded = canonical_identity(identity)
    assert encoded == canonical_identity(dict(items)), "the order of a mapping is no difference"
    assert encoded.isascii()
    assert json.loads(encoded) == identity


@given(IDENTITIES, IDENTITIES)
def test_different_identities_never_meet(one: dict[str, Any], two: dict[str, Any]) -> None:
    names = [choose_namespace(None, canonical_identity(identity)) for identity in (one, two)]
    assert (names[0] == names[1]) == (json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True))


@pytest.mark.parametrize("field", ["dtype", "layout", "page_size", "tp_rank"])
def test_one_field_is_enough(field: str) -> None:
    identity: dict[str, Any] = {
        "model": "m",
        "dtype": "bfloat16",
        "layout": "page_first",
        "page_size": 64,
        "tp_rank": 0,
    }
    other = identity | {field: "float16" if isinstance(identity[field], str) else 1}
    assert choose_namespace(None, canonical_identity(identity)) != choose_namespace(None, canonical_identity(other))


def test_choice() -> None:
    identity = canonical_identity({"model": "m"})
    assert identity == b'{"model":"m"}'
    derived = "auto-" + hashlib.sha256(identity).hexdigest()[:32]
    assert choose_namespace(None, identity) == derived
    assert choose_namespace("pinned", identity) == "pinned"
    assert choose_namespace("pinned", b"") == "pinned"
    assert choose_namespace(None, b"") == "default"
    assert canonical_identity(None) == b""
    assert canonical_identity({}) == b"{}"
    assert identity_digest(b"") == bytes(32)
    assert identity_digest(identity) == hashlib.sha256(identity).digest()


@pytest.mark.parametrize("identity", [{"a": object()}, {"a": float("nan")}, {"a": b"bytes"}, {"a": {1, 2}}])
def test_what_is_not_json(identity: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        canonical_identity(identity)


def test_identity_bounds() -> None:
    room = limits.IDENTITY_BYTES_MAX - len('{"a":""}')
    assert len(canonical_identity({"a": "x" * room})) == limits.IDENTITY_BYTES_MAX
    with pytest.raises(ConfigError):
        canonical_identity({"a": "x" * (room + 1)})


@pytest.mark.parametrize("name", ["", "n" * 256, "é" * 128, "a\nb", "\ud800", "tab\t"])
def test_bad_namespaces(name: str) -> None:
    with pytest.raises(ConfigError):
        choose_namespace(name, b"")
    assert choose_namespace("é" * 127, b"") == "é" * 127
