# SPDX-License-Identifier: Apache-2.0
"""Typed errors, by phase and by whose fault; a miss is a value, never an error.

Each error is also the builtin that a caller would already catch. ``str(error)`` is one line: the cause, then the
remedy when one is known, so that a CLI or a log can show it as it is.
"""

from __future__ import annotations


class MemKVError(Exception):
    """Base of every error of MemKV. ``remedy`` says what to do about it, or is None."""

    def __init__(self, cause: str, *, remedy: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}" if self.remedy else self.cause


# -- before anything connects: the operator's or the caller's fault ---------------------------------------------------
class ConfigError(MemKVError, ValueError):
    """A setting is unknown, malformed or contradictory; names file, key, value and what is accepted."""


class LicenseError(MemKVError, PermissionError):
    """No valid license: missing, expired, forged, for another audience, or for fewer servers."""


class InvalidArgumentError(MemKVError, ValueError):
    """A call's arguments are wrong (key of 0 or 513 bytes, lists of different lengths, read-only target)."""


class ClientClosedError(MemKVError, RuntimeError):
    """A call on a client after ``close()``."""


# -- the way to the server --------------------------------------------------------------------------------------------
class TransportError(MemKVError, OSError):
    """The connection failed; the call becomes a miss and the server's breaker counts it."""

    def __init__(self, cause: str, *, remedy: str | None = None) -> None:
        MemKVError.__init__(self, cause, remedy=remedy)

    def __str__(self) -> str:
        return MemKVError.__str__(self)


class ConnectError(TransportError, ConnectionError):
    """No connection could be made: refused, unreachable, unresolvable."""


class DisconnectedError(TransportError, ConnectionError):
    """An established connection ended in the middle of an exchange."""


class TransportTimeoutError(TransportError, TimeoutError):
    """The deadline passed; the connection was closed so that no late byte can land."""


class PoolTimeoutError(TransportTimeoutError):
    """Every connection that may be made to a server was in use until the deadline: it says nothing of the server."""


# -- what is said on the wire -----------------------------------------------------------------------------------------
class ProtocolError(MemKVError):
    """A rule of the protocol was broken; never raised itself, see the two sides below."""


class LocalProtocolError(ProtocolError, RuntimeError):
    """This side used a session wrongly: a bug here."""


class RemoteProtocolError(ProtocolError, ConnectionError):
    """The peer broke a rule (or the bytes are not MemKV at all): the session ends."""


class AuthError(RemoteProtocolError, PermissionError):
    """A proof or a frame's authentication code does not verify: another key, or tampering."""


class RefusedError(ProtocolError, PermissionError):
    """The server refused, with a typed code of the wire (see ``memkv_core.wire.ErrorCode``)."""

    def __init__(self, code: int, cause: str, *, remedy: str | None = None) -> None:
        super().__init__(cause, remedy=remedy)
        self.code = code


# -- the server's drives ----------------------------------------------------------------------------------------------
class StorageError(MemKVError, OSError):
    """A drive, folder or segment cannot be used; names the file or device and what to do."""

    def __init__(self, cause: str, *, remedy: str | None = None) -> None:
        MemKVError.__init__(self, cause, remedy=remedy)

    def __str__(self) -> str:
        return MemKVError.__str__(self)
