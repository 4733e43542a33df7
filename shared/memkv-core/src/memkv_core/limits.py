# SPDX-License-Identifier: Apache-2.0
"""Every bound of the protocol and the client, in one place.

A length that arrives from a peer is compared with the bound here *before* memory is taken for it.
Sizes end in ``_BYTES``, times in ``_MS`` or ``_S``, counts in ``_COUNT`` or ``_MAX``.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Keys, values, metadata kept beside a value.
KEY_BYTES_MIN: Final = 1
KEY_BYTES_MAX: Final = 512
META_BYTES_MAX: Final = 4 * KIB
VALUE_BYTES_MAX: Final = 256 * MIB

# Frames. A frame carries one batch; larger batches are split by the client.
FRAME_KEYS_MAX: Final = 4096
FRAME_METADATA_BYTES_MAX: Final = 24 * MIB  # 4096 keys of 512 bytes, each with 4 KiB of meta, fits
FRAME_PAYLOAD_BYTES_MAX: Final = VALUE_BYTES_MAX
FRAME_PAYLOAD_BYTES_TARGET: Final = (
    16 * MIB
)  # where the client cuts a batch: deep enough to stream, shallow enough to overlap digests

# Payload that the server moves itself (flag PLACED), and the regions of a session that it moves from and to.
PLACED_PARTS_MAX: Final = 65_536  # in one frame: 1 MiB of metadata
REGIONS_MAX: Final = 1024  # in one session
REGION_BYTES_MAX: Final = 1 << 46  # 64 TiB; an address and an offset never add up to more than 64 bits
ADDRESS_MAX: Final = (1 << 57) - 1  # of user space with five levels of page tables
RDMA_DEPTH_MAX: Final = 4096  # GETs of one endpoint that may be under way

# Handshake.
HELLO_BYTES_MAX: Final = 20 * KIB
IDENTITY_BYTES_MAX: Final = 16 * KIB
NAMESPACE_BYTES_MAX: Final = 255
AGENT_BYTES_MAX: Final = 128
AUTH_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32
HANDSHAKE_TIMEOUT_MS: Final = 5_000
SEQUENCE_MAX: Final = 2**64 - 1

# Placement.
SLOT_COUNT: Final = 4096
LANES_MAX: Final = 256
SERVERS_MAX: Final = 1024

# Client.
TIMEOUT_MS_MAX: Final = 600_000
CONNECTIONS_MAX: Final = 64
WINDOW_BYTES: Final = 4 * MIB  # handed to one sendmsg/recvmsg; a socket buffer holds about as much
WINDOW_BYTES_MIN: Final = 256 * KIB  # and where the last one moved little
WAKE_BYTES: Final = 512 * KIB  # of a payload that wake its receiver, or all that is left of it; see wakeups.py
WAKE_BYTES_MIN: Final = 64 * KIB  # a segment of the kernel's: for less it is not worth the call
IOV_MAX: Final = 1024  # parts of one sendmsg/recvmsg; Linux UIO_MAXIOV
BREAKER_FAILURES: Final = 3  # consecutive failures that open a breaker; a spent deadline opens it at once
BREAKER_PROBE_MS_MIN: Final = 250
BREAKER_PROBE_MS_MAX: Final = 2_000

# Settings and licenses: small files and tokens that an operator names.
CONFIG_BYTES_MAX: Final = MIB
STAGING_MB_MAX: Final = MIB  # 1 TiB
LICENSE_BYTES_MAX: Final = 16 * KIB
LICENSE_KEYS_MAX: Final = 256
LICENSE_LEEWAY_S: Final = 60  # how far the clocks of an authority and a host may differ
LICENSE_DAYS_MAX: Final = 36_500
LICENSE_TEXT_MAX: Final = 200  # characters of plan, licensee, authority name

EXPORTER_PORTS_MAX: Final = 64  # from MEMKV_PROMETHEUS_BIND on: one for each process of an engine on a host

# Guard and logs.
LOG_INTERVAL_S: Final = 10.0  # one line per cause in this time; the next says how many were left out
LOG_KEYS_MAX: Final = 256

# Estimates of how long a get would take.
ESTIMATE_GETS_MIN: Final = 3  # the first one also connects
ESTIMATE_STALE_S: Final = 30.0
