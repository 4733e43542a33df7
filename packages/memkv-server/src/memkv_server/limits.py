# SPDX-License-Identifier: Apache-2.0
"""The bounds of a lane; the engine's stand in ``engine/limits.py``, the wire's in ``memkv_core.limits``."""

from __future__ import annotations

from typing import Final

from memkv_core.limits import KIB, MIB

HEAD_BYTES: Final = 8 * KIB  # of a connection's buffer; it grows for one large frame and shrinks back after it
# Read with a frame's head in the hope of all of it; of a PUT's payload no more is ever copied.
READ_AHEAD_BYTES: Final = 4 * KIB
DRAIN_BYTES: Final = MIB  # of the buffer that payloads go to which nobody wants
PREFIX_BYTES_MAX: Final = 64  # of a socket's first bytes, read by the supervisor
SENDS_PER_TURN: Final = 2  # system calls for one connection before the others have their turn
TURN_BYTES: Final = 4 * MIB  # that a lane moves itself for one connection before the others have their turn
DESCRIPTORS_MAX: Final = 8  # of one connection that have come and wait for their region
SHM_REGIONS_MAX: Final = 64  # of one connection; each keeps a descriptor open
SHM_MAPPED_BYTES_MAX: Final = 256 * MIB  # of one region that the lane maps; a larger one is moved by system calls
SHM_VERIFIED_BYTES: Final = 256 * KIB  # that are moved before they are verified, in the core's cache still
CROWDED_TURN_BYTES: Final = 512 * KIB  # of one of them, where several connections have something to do: 0.1 ms
ASKED_S: Final = 0.1  # after a small question the turns of other connections are as short
PENDING_MAX: Final = 32  # answers of one connection that wait for the drive; then nothing more is read from it
CONNECTIONS_MAX: Final = 8192
HANDSHAKE_S: Final = 5.0
STALL_S: Final = 30.0  # a peer that leaves a frame half sent or half read for so long loses its connection
SWEEP_S: Final = 1.0
DRAIN_S: Final = 7.0
IDLE_POLL_S: Final = 0.5
EVENTS_MAX: Final = 512
STATUS_NAMESPACES_MAX: Final = 96  # shown of a lane, the largest; with names of 255 bytes they still fit a message
LIST_KEYS_MAX: Final = 96  # in one answer of a lane; keys of 512 bytes in hexadecimal fit as well
LISTED_KEYS_MAX: Final = 10_000  # in one answer of the admin endpoint
CONTROL_BYTES_MAX: Final = 128 * KIB
# Work on a drive beside its service (scrub, evacuate), in bytes a second.
JOB_RATE_MIN: Final = 64 * KIB
JOB_RATE_DEFAULT: Final = 100 * MIB
JOB_RATE_MAX: Final = 1 << 40
PUTS_MOVING_MAX: Final = 2  # of one connection: one is moved while the one before it is verified
# RDMA, of each device of a lane.
RDMA_ENDPOINTS_MAX: Final = 1024  # queue pairs; beyond it a session goes on over TCP
RDMA_ENDPOINTS_PER_CLIENT_MAX: Final = 64  # as many as a client may have connections
RDMA_SEND_DEPTH: Final = 256  # work requests of one endpoint under way; what is more waits for credits
RDMA_ENTRIES_MAX: Final = 1 << 18  # of the completion queue that all endpoints share
RDMA_STEP_BYTES: Final = 4 * MIB  # copied and posted at a time where the store's memory is not registered
RDMA_BOUNCE_BYTES: Final = 64 * MIB  # registered for that
# The dashboard: what the supervisor keeps, and what it takes on while a page is open.
HISTORY_STEP_S: Final = 5  # between two samples of what the lanes do
HISTORY_SAMPLES_MAX: Final = 720  # an hour
PROBLEMS_MAX: Final = 64  # of one process: kinds of warnings and errors, the latest of each
PROBLEM_TEXT_MAX: Final = 600  # characters
LOOK_CONNECTIONS_MAX: Final = 1024  # that a lane looks at: 1.3 ms
LOOK_BYTES_MAX: Final = 32 * KIB  # of each part of what it says of them, so that all fits a control message
IDENTITY_SHOWN_CHARS_MAX: Final = 2 * KIB
SHOWN_NAMESPACES_MAX: Final = 64
SHOWN_CLIENTS_MAX: Final = 128
SHOWN_PROBLEMS_MAX: Final = 64
STREAMS_MAX: Final = 32  # open pages
LOGIN_BYTES_MAX: Final = 4 * KIB
