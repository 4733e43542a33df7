# SPDX-License-Identifier: Apache-2.0
"""The client's settings: one table. How the layers are read and who wins is in ``memkv_core.settings``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from memkv_core.address import Address, parse_address, parse_addresses
from memkv_core.errors import ConfigError
from memkv_core.limits import (
    AUTH_KEY_BYTES,
    CONNECTIONS_MAX,
    NAMESPACE_BYTES_MAX,
    SERVERS_MAX,
    STAGING_MB_MAX,
    TIMEOUT_MS_MAX,
)
from memkv_core.log import protect
from memkv_core.settings import LayeredSettings, Setting, SettingProblem

__all__ = ["ClientConfig", "Setting", "looks_like_token", "parse_auth_key"]

_KEY_DIGITS = 2 * AUTH_KEY_BYTES
_KEY_REMEDY = f"{_KEY_DIGITS} hexadecimal digits, as `memkv keygen` makes them"
_SERVERS = "host:port, separated by commas"
_DEVICES = "RDMA device names (name, name:port or name:port:gid index), separated by commas"
_NAMESPACE = f"a text of 1 to {NAMESPACE_BYTES_MAX} bytes without control characters"


def parse_auth_key(value: object) -> str:
    """The cluster key as 64 lower-case hexadecimal digits. Errors never hold what was given."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not isinstance(value, str):
        raise SettingProblem(
            f"it is a {type(value).__name__}, not text (yaml reads bare digits as a number: quote it)",
            _KEY_REMEDY,
        )
    digits = value.strip()
    wrong = re.search(r"[^0-9a-fA-F]", digits)
    if len(digits) != _KEY_DIGITS:
        raise SettingProblem(f"it has {len(digits)} characters instead of {_KEY_DIGITS}", _KEY_REMEDY)
    if wrong:
        raise SettingProblem(f"character {wrong.start() + 1} of {_KEY_DIGITS} is no hexadecimal digit", _KEY_REMEDY)
    return digits.lower()


def looks_like_token(text: str) -> bool:
    """Whether a license setting is the token itself, not a path: a JWT starts with base64 of ``{"``."""
    return text.startswith("eyJ") and "/" not in text


def _items(value: object, accepted: str) -> tuple[str, ...]:
    """A comma list or a list of texts as a tuple; an empty item is an error, a sign of a broken template."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise SettingProblem(f"it is a {type(value).__name__}", accepted)
    for position, part in enumerate(parts, 1):
        if not isinstance(part, str) or not part.strip():
            raise SettingProblem(
                f"item {position} of {len(parts)} is {'empty' if part == '' else repr(part)}", accepted
            )
    return tuple(part.strip() for part in parts)


def _servers(value: object) -> tuple[str, ...]:
    items = _items(value, _SERVERS)
    if not 1 <= len(items) <= SERVERS_MAX:
        raise SettingProblem(f"it lists {len(items)} servers", f"1 to {SERVERS_MAX} of {_SERVERS}")
    try:
        return tuple(str(address) for address in parse_addresses(items))
    except ConfigError as error:
        raise SettingProblem(error.cause, error.remedy or _SERVERS) from None


def _devices(value: object) -> tuple[str, ...]:
    items = _items(value, _DEVICES) if value not in ("", [], ()) else ()
    for item in items:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}(:[0-9]{1,3}){0,2}", item):
            raise SettingProblem(f"{item!r} is no device name", f"{_DEVICES}, such as mlx5_0,mlx5_1 or mlx5_0:1:3")
    if len(set(items)) != len(items):
        raise SettingProblem("a device is listed twice", _DEVICES)
    return items


def _namespace(value: object) -> object:
    if isinstance(value, str):
        if not 1 <= len(value.encode("utf-8", "surrogatepass")) <= NAMESPACE_BYTES_MAX or not value.isprintable():
            raise SettingProblem("it is empty, too long or not printable", _NAMESPACE)
        return value
    if value is None:
        return None
    raise SettingProblem(f"it is a {type(value).__name__}, not text", _NAMESPACE)


def _whole(value: object) -> object:
    if isinstance(value, bool):  # pydantic would take yaml's `yes` for 1
        raise ValueError("it is true or false, not a number")
    return value


def _word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _secret(parse: Callable[[object], str]) -> Callable[[object], SecretStr]:
    return lambda value: SecretStr(parse(value))


_Whole = BeforeValidator(_whole)


class ClientConfig(LayeredSettings):
    """Settings of one client; immutable, hashable, safe to print. ``load()`` says where values come from."""

    model_config = SettingsConfigDict(env_prefix="MEMKV_")
    secret_fields: ClassVar[frozenset[str]] = frozenset({"auth_key"})
    # Read elsewhere in MemKV: not fields, but no misspelt ones either.
    other_variables: ClassVar[set[str]] = {"MEMKV_PROMETHEUS_BIND", "MEMKV_OTEL_ENDPOINT", "MEMKV_DEBUG"}
    other_prefixes: ClassVar[tuple[str, ...]] = ("MEMKV_SERVER_",)  # the node's own settings

    servers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_servers)] = Field(description=_SERVERS)
    auth_key: Annotated[SecretStr, BeforeValidator(_secret(parse_auth_key))] = Field(description=_KEY_REMEDY)
    transport: Annotated[Literal["auto", "tcp", "shm", "rdma"], BeforeValidator(_word)] = Field(
        "auto", description="auto | tcp | shm | rdma"
    )
    license: str | None = Field(None, description="a license token, or the path of a license file", min_length=1)
    license_keys: str | None = Field(
        None, description="files or folders of public keys, separated by colons", min_length=1
    )
    rdma_devices: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_devices)] = Field((), description=_DEVICES)
    staging_size_mb: Annotated[int, _Whole] = Field(
        1024, ge=1, le=STAGING_MB_MAX, description=f"a whole number of MiB, 1 to {STAGING_MB_MAX}"
    )
    staging_slot_mb: Annotated[int, _Whole] = Field(
        16, ge=1, le=STAGING_MB_MAX, description="a whole number of MiB, 1 to staging_size_mb"
    )
    namespace: Annotated[str | None, BeforeValidator(_namespace)] = Field(None, description=_NAMESPACE)
    timeout_ms: Annotated[int, _Whole] = Field(
        5000, ge=1, le=TIMEOUT_MS_MAX, description=f"a whole number of milliseconds, 1 to {TIMEOUT_MS_MAX}"
    )
    connections: Annotated[int, _Whole] = Field(
        4, ge=1, le=CONNECTIONS_MAX, description=f"connections per server, 1 to {CONNECTIONS_MAX}"
    )
    replicas: Annotated[int, _Whole] = Field(1, ge=1, le=SERVERS_MAX, description="1 to the number of servers")
    integrity: Annotated[Literal["xxh3", "sha256"], BeforeValidator(_word)] = Field("xxh3", description="xxh3 | sha256")

    @model_validator(mode="after")
    def _consistent(self) -> ClientConfig:
        if self.replicas > len(self.servers):
            raise SettingProblem(
                f"replicas = {self.replicas}, but servers lists {len(self.servers)}",
                "add servers or lower replicas",
            )
        if self.staging_slot_mb > self.staging_size_mb:
            raise SettingProblem(
                f"staging_slot_mb = {self.staging_slot_mb} exceeds staging_size_mb = {self.staging_size_mb}",
                "raise staging_size_mb or lower staging_slot_mb",
            )
        return self

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        protect(self.auth_key.get_secret_value())

    @property
    def auth_key_bytes(self) -> bytes:
        """The cluster key, 32 bytes. Keep it out of logs and exceptions."""
        return bytes.fromhex(self.auth_key.get_secret_value())

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The servers as (host, port), in the order of ``servers``."""
        return tuple(parse_address(server) for server in self.servers)

    @classmethod
    def _is_secret(cls, name: str, value: object) -> bool:
        return name in cls.secret_fields or (name == "license" and isinstance(value, str) and looks_like_token(value))
