# SPDX-License-Identifier: Apache-2.0
"""The server's settings: one table of sections. How the layers are read is in ``memkv_server.settings``.

The cluster key, the license and its trusted keys are also taken from the variables that clients use
(MEMKV_AUTH_KEY, MEMKV_LICENSE, MEMKV_LICENSE_KEYS) where nothing else sets them.

::

    network: {address: 0.0.0.0:9900, auth_key: /etc/memkv/auth.key}
    storage: {drives: [{path: /srv/memkv0, capacity: 800GiB}, {path: /srv/memkv1, capacity: 800GiB}]}
    license: /etc/memkv/minio.license
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict

from memkv_core.address import Address, parse_address
from memkv_core.errors import ConfigError
from memkv_core.limits import LANES_MAX, SERVERS_MAX
from memkv_core.log import protect
from memkv_core.settings import SettingProblem
from memkv_core.transports.verbs import DeviceSpec
from memkv_server.capacity import SIZE, SIZE_OR_SHARE, Share, parse_capacity
from memkv_server.duration import DURATION, parse_duration
from memkv_server.keyfile import ACCEPTED, resolve_key
from memkv_server.limits import RDMA_BOUNCE_BYTES, RDMA_STEP_BYTES
from memkv_server.local_socket import AUTO, NONE
from memkv_server.settings import ENV_PREFIX, SectionedSettings

DATA_PORT: Final = 9900
_SOCKET: Final = f"an absolute path, {AUTO} or {NONE}"
_DEVICES: Final = "RDMA devices, such as mlx5_0,mlx5_1; mlx5_0:1 names a port, mlx5_0:1:3 a GID of it"
_PEERS: Final = "the cluster's nodes: host:9900, as in MEMKV_SERVERS, or the admin URL https://host:9901"
_LISTEN: Final = "host:port, such as 0.0.0.0:9900; port 0 takes a free one"


def _address(value: object) -> str:
    if not isinstance(value, str):
        raise SettingProblem(f"it is a {type(value).__name__}, not text", _LISTEN)
    try:
        return str(parse_address(value, DATA_PORT, port_min=0))
    except ConfigError as error:
        raise SettingProblem(error.cause, _LISTEN) from None


def _device(value: object) -> str:
    if not isinstance(value, str):
        raise SettingProblem(f"it is a {type(value).__name__}, not text", _DEVICES)
    try:
        DeviceSpec.parse(value)
    except ConfigError as error:
        raise SettingProblem(error.cause, error.remedy or _DEVICES) from None
    return value.strip()


def _socket(value: object) -> str:
    if not isinstance(value, str | Path):
        raise SettingProblem(f"it is a {type(value).__name__}, not text", _SOCKET)
    text = str(value)
    if text not in (AUTO, NONE) and (not os.path.isabs(text) or "\0" in text or text.endswith("/")):
        raise SettingProblem("it is no absolute path", _SOCKET)
    return text


def _auth_key(value: object) -> SecretStr:
    key = resolve_key(value.get_secret_value() if isinstance(value, SecretStr) else value)
    protect(key)
    return SecretStr(key)


def _peers(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise SettingProblem(f"it is a {type(value).__name__}, not a list of text", _PEERS)
    if len(items) > SERVERS_MAX:
        raise SettingProblem(f"it lists {len(items)} peers", f"at most {SERVERS_MAX}")
    return tuple(dict.fromkeys(_peer(item.strip()) for item in items if item.strip()))


def _peer(text: str) -> str:
    """A data address, or the URL of an admin endpoint."""
    try:
        scheme, found, rest = text.partition("://")
        if not found:
            return str(parse_address(text, DATA_PORT))
        if scheme in ("http", "https"):
            return f"{scheme}://{parse_address(rest.removesuffix('/'), DATA_PORT + 1)}"
    except ConfigError as error:
        raise SettingProblem(error.cause, _PEERS) from None
    raise SettingProblem(f"{text!r} is no address", _PEERS)


Duration = Annotated[int, PlainValidator(parse_duration)]
Capacity = Annotated[int | Share, PlainValidator(parse_capacity)]
AddressText = Annotated[str, BeforeValidator(_address)]
SocketText = Annotated[str, BeforeValidator(_socket)]
DeviceText = Annotated[str, BeforeValidator(_device)]
PeerTexts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_peers)]
AuthKey = Annotated[SecretStr, BeforeValidator(_auth_key)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Section):
    """Where the node listens, and the cluster key that its peers must hold."""

    address: AddressText = Field(default="0.0.0.0:9900", description=_LISTEN)
    admin_address: AddressText | None = Field(default=None, description=f"{_LISTEN}; without it, the data port + 1")
    socket: SocketText = Field(default=AUTO, description=_SOCKET)  # for clients on this host, over shm
    auth_key: AuthKey | None = Field(default=None, description=ACCEPTED)
    # Accepted as well, while a key is being rotated.
    auth_key_previous: AuthKey | None = Field(default=None, description=ACCEPTED)
    # The cluster's nodes, for the dashboard alone: which nodes hold what is the clients' affair.
    peers: PeerTexts = Field(default=(), description=_PEERS)
    tls_cert: Path | None = Field(default=None, description="PEM certificate for admin HTTP, with tls_key")
    tls_key: Path | None = Field(default=None, description="PEM key for admin HTTP, with tls_cert")

    @model_validator(mode="after")
    def _both_or_neither(self) -> NetworkConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingProblem("one of tls_cert and tls_key is set", "both or neither")
        return self


class DriveConfig(_Section):
    """One drive: a folder on it, or in mode direct the device itself, and how much of it MemKV may fill."""

    path: Path = Field(description="a folder, or a block device in mode direct")
    capacity: Capacity | None = Field(default=None, description=SIZE_OR_SHARE)


class StorageConfig(_Section):
    """What holds the blocks. Drives without a capacity share evenly what the others leave of ``capacity``."""

    mode: Literal["file", "direct", "memory"] = Field(default="file", description="file | direct | memory")
    drives: tuple[DriveConfig, ...] = Field(default=(), description="a list of {path: PLACE, capacity: SIZE}")
    capacity: Capacity | None = Field(default=None, description=SIZE_OR_SHARE)
    segment_size: ByteSize | None = Field(default=None, gt=0, description=SIZE)
    # What an acknowledged put survives: the death of the process, or the loss of power. See docs/durability.md.
    durability: Literal["relaxed", "strict"] = Field(default="relaxed", description="relaxed | strict")


class MemoryConfig(_Section):
    """What mode direct may take of the machine's memory, instead of the page cache. Its drives share it evenly."""

    max_size: ByteSize | None = Field(default=None, gt=0, description=SIZE)


class NamespaceConfig(_Section):
    """Bounds of the namespaces whose name matches. The first entry that matches a name counts, and no other."""

    match: str = Field(min_length=1, max_length=255, description="a name, or a pattern with *, ? and [...]")
    quota: ByteSize | None = Field(default=None, gt=0, description=f"of live records, over the whole node: {SIZE}")
    ttl: Duration | None = Field(default=None, description=DURATION)


class LimitsConfig(_Section):
    """Bounds of one node."""

    connections_max: int = Field(
        default=16_384, ge=1, le=1_000_000, description="open client connections, 1 to 1000000"
    )


class RdmaConfig(_Section):
    """RDMA devices of the node, for its clients' payload; without any it goes over TCP."""

    devices: Annotated[tuple[DeviceText, ...], NoDecode] = Field(default=(), description=_DEVICES)
    # Registered by each lane with each device, for memory of the store that cannot be registered itself.
    bounce_size: ByteSize = Field(default=ByteSize(RDMA_BOUNCE_BYTES), ge=RDMA_STEP_BYTES, description=SIZE)

    @field_validator("devices", mode="before")
    @classmethod
    def _comma_list(cls, value: object) -> object:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class LogConfig(_Section):
    """Log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug | info | warning | error"
    )
    format: Literal["console", "json"] = Field(default="console", description="console | json")


class ServerConfig(SectionedSettings):
    """Every setting of a node. Immutable. ``load`` says where values come from."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )
    secret_keys: ClassVar[frozenset[str]] = frozenset({"auth_key", "auth_key_previous", "license"})
    shared_variables: ClassVar[dict[str, str]] = {
        "MEMKV_AUTH_KEY": "network.auth_key",
        "MEMKV_LICENSE": "license",
        "MEMKV_LICENSE_KEYS": "license_keys",
        "MEMKV_RDMA_DEVICES": "rdma.devices",
    }

    network: NetworkConfig = NetworkConfig()
    storage: StorageConfig = StorageConfig()
    memory: MemoryConfig = MemoryConfig()
    namespaces: tuple[NamespaceConfig, ...] = Field(
        default=(), description="a list of {match: NAME OR PATTERN, quota: SIZE, ttl: TIME}"
    )
    lanes: int | None = Field(default=None, ge=1, le=LANES_MAX, description=f"lane processes, 1 to {LANES_MAX}")
    license: str | None = Field(
        default=None, min_length=1, description="a license token, or the path of a license file"
    )
    license_keys: str | None = Field(
        default=None, min_length=1, description="files or folders of public keys, separated by colons"
    )
    limits: LimitsConfig = LimitsConfig()
    rdma: RdmaConfig = RdmaConfig()
    log: LogConfig = LogConfig()

    def checked(self) -> ServerConfig:
        """Itself, where the parts fit together and are enough to start a node. Raises ConfigError."""
        _check_together(self)
        return self

    # -- what follows from the settings -------------------------------------------------------------------
    @property
    def address(self) -> Address:
        return parse_address(self.network.address, DATA_PORT, port_min=0)

    @property
    def admin_address(self) -> Address:
        """The admin endpoint's address; port 0 where the data port is 0: known once both are bound."""
        data = self.address
        default_port = data.port + 1 if data.port else 0
        if self.network.admin_address is None:
            return Address(data.host, default_port)
        return parse_address(self.network.admin_address, default_port, port_min=0)

    @property
    def auth_keys(self) -> tuple[bytes, ...]:
        """The current key first."""
        keys = (self.network.auth_key, self.network.auth_key_previous)
        return tuple(bytes.fromhex(key.get_secret_value()) for key in keys if key is not None)

    @property
    def lane_count(self) -> int:
        return self.lanes or max(1, len(self.storage.drives))

    @property
    def namespace_rules(self) -> list[dict[str, Any]]:
        """For one lane, which gets an even share of the keys: ``[{"match", "quota_bytes", "ttl_s"}]``."""
        return [
            {
                "match": rule.match,
                "quota_bytes": int(rule.quota) // self.lane_count if rule.quota is not None else None,
                "ttl_s": rule.ttl,
            }
            for rule in self.namespaces
        ]

    def drives_of(self, lane: int) -> list[dict[str, Any]]:
        """``[{"path", "capacity_bytes"}]`` of a lane: drives are dealt round robin; none in mode memory.

        Where a capacity is in per cent, ``capacity_percent`` says it and the bytes, not known yet, are 0.
        """
        drives = []
        for index, (drive, capacity) in enumerate(zip(self.storage.drives, _capacities(self.storage), strict=True)):
            if index % self.lane_count != lane:
                continue
            entry: dict[str, Any] = {"path": str(drive.path.absolute()), "capacity_bytes": capacity}
            if isinstance(capacity, Share):
                entry |= {"capacity_bytes": 0, "capacity_percent": capacity.percent}
            drives.append(entry)
        return drives

    def capacities(self) -> list[int | Share]:
        """The capacity of each drive, in the order of ``storage.drives``."""
        return _capacities(self.storage)

    @property
    def drive_memory_bytes(self) -> int | None:
        """What each drive of mode direct may take of ``memory.max_size``; None: the default."""
        max_size = self.memory.max_size
        return int(max_size) // max(1, len(self.storage.drives)) if max_size is not None else None

    def capacity_of(self, lane: int) -> int:
        """Bytes of one lane: those of its drives, or in mode memory an even share of the node's."""
        if self.storage.mode == "memory":
            assert isinstance(self.storage.capacity, int)
            return self.storage.capacity // self.lane_count
        return sum(drive["capacity_bytes"] for drive in self.drives_of(lane))


def _check_together(config: ServerConfig) -> None:
    storage = config.storage
    if config.network.auth_key is None:
        raise ConfigError(
            "network.auth_key is not set", remedy="make a key with `memkv keygen` and give it to every node and client"
        )
    if config.memory.max_size is not None and storage.mode != "direct":
        raise ConfigError(
            f"memory.max_size is set, and mode {storage.mode} has no RAM pool",
            remedy="remove it, or use mode direct (mode memory is bounded by storage.capacity)",
        )
    if storage.mode == "memory":
        if storage.drives:
            raise ConfigError("storage.mode memory takes no drives", remedy="remove storage.drives, or use mode file")
        if storage.capacity is None:
            raise ConfigError("storage.capacity is not set", remedy="set it, for example to 4GiB")
        if isinstance(storage.capacity, Share):
            raise ConfigError(
                f"storage.capacity {storage.capacity} is a share of a drive, and mode memory has none",
                remedy="give it in bytes, for example 4GiB",
            )
        if storage.durability == "strict":
            raise ConfigError(
                "storage.durability strict is not possible in mode memory",
                remedy="use mode file or direct, or relaxed",
            )
        return
    if not storage.drives:
        raise ConfigError(
            "storage.drives is empty", remedy="name a folder for the blocks (--path DIR), or use --mode memory"
        )
    _check_paths([drive.path for drive in storage.drives])
    _capacities(storage)
    if config.lanes is not None and config.lanes > len(storage.drives):
        raise ConfigError(
            f"lanes is {config.lanes}, and there are {len(storage.drives)} drives",
            remedy="leave lanes out: each drive has one (name several folders on one drive for more)",
        )


def _check_paths(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        real = Path(os.path.realpath(path))
        for other in seen:
            if real == other or real in other.parents or other in real.parents:
                raise ConfigError(f"drives {seen[other]} and {path} overlap", remedy="give each drive its own folder")
        seen[real] = path


def _capacities(storage: StorageConfig) -> list[int | Share]:
    """The capacity of each drive."""
    named = [drive.capacity for drive in storage.drives if drive.capacity is not None]
    unnamed = [drive for drive in storage.drives if drive.capacity is None]
    if isinstance(storage.capacity, int):
        rest: int | Share = _rest(storage.capacity, named, unnamed)
    elif storage.capacity is not None:
        rest = storage.capacity  # of each
    elif unnamed:
        raise ConfigError(
            f"drive {unnamed[0].path} has no capacity",
            remedy="set it, or storage.capacity, for example to 4GiB or 100%",
        )
    else:
        rest = 0  # for nobody
    return [drive.capacity if drive.capacity is not None else rest for drive in storage.drives]


def _rest(total: int, named: Sequence[int | Share], unnamed: Sequence[DriveConfig]) -> int:
    """What each drive without a capacity of its own gets of the node's."""
    taken = 0
    for capacity in named:
        if isinstance(capacity, Share):
            raise ConfigError(
                f"storage.capacity is {total} bytes, and a drive's is {capacity}",
                remedy="give each drive its own capacity, and leave storage.capacity out",
            )
        taken += capacity
    if not unnamed:
        if taken > total:
            raise ConfigError(
                f"the drives' capacities add up to {taken}, above storage.capacity {total}",
                remedy="leave storage.capacity out",
            )
        return 0
    share = (total - taken) // len(unnamed)
    if share <= 0:
        raise ConfigError(
            f"storage.capacity {total} leaves nothing for {unnamed[0].path}",
            remedy="raise it, or give each drive its own capacity",
        )
    return share
