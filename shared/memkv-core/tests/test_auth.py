# SPDX-License-Identifier: Apache-2.0
"""Keys and proofs; their bytes are held by ``test_vectors``, what a session makes of them by ``test_session``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memkv_core import auth

KEY = bytes(range(32))
NONCE = bytes(32)
MESSAGES = st.binary(max_size=100)


def test_nonces_are_fresh() -> None:
    nonces = {auth.nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert {len(nonce) for nonce in nonces} == {32}


def test_a_key_is_found_by_its_id_alone() -> None:
    keys = [bytes([number]) * 32 for number in range(3)]
    ring = auth.Keyring(keys)
    assert [ring.find(auth.key_id(key)) for key in keys] == keys
    assert ring.find(bytes(8)) is None
    assert len({auth.key_id(key) for key in keys}) == 3


def test_what_is_shown_of_a_key_does_not_hold_it() -> None:
    shown = auth.key_id(KEY).hex() + auth.admin_token(KEY) + auth.server_proof(KEY, b"", 1, 0, NONCE).hex()
    assert KEY.hex()[:16] not in shown


@given(MESSAGES, MESSAGES, st.integers(0, 255), st.integers(0, 65535))
def test_a_server_proof_is_bound_to_all_it_says(hello: bytes, other: bytes, version: int, lane: int) -> None:
    proof = auth.server_proof(KEY, hello, version, lane, NONCE)
    assert len(proof) == 32
    assert proof != auth.server_proof(KEY, hello, version, lane ^ 1, NONCE)
    assert proof != auth.server_proof(KEY, hello, version ^ 1, lane, NONCE)
    assert proof != auth.server_proof(KEY, hello, version, lane, b"\1" + NONCE[1:])
    assert proof != auth.server_proof(b"\1" + KEY[1:], hello, version, lane, NONCE)
    assert (proof == auth.server_proof(KEY, other, version, lane, NONCE)) == (hello == other)


@given(MESSAGES, MESSAGES, MESSAGES)
def test_client_proofs_and_session_keys_are_bound_to_the_handshake(
    hello: bytes, challenge: bytes, other: bytes
) -> None:
    proof, keys = auth.client_proof(KEY, hello, challenge), auth.session_keys(KEY, hello, challenge)
    assert len({proof, *keys}) == 3
    assert {len(key) for key in keys} == {32}
    if hello + challenge != hello + other:
        assert proof != auth.client_proof(KEY, hello, other)
        assert not set(keys) & set(auth.session_keys(KEY, hello, other))
