# SPDX-License-Identifier: Apache-2.0
"""A drive whose plug can be pulled: a network block device (NBD) that forgets what was not flushed.

Killing a virtual machine alone loses its page cache and nothing else: what it has written to a file of the host
survives in the host's page cache, flushed or not. Here the writes since the last flush are remembered by sector, and
``pull`` leaves each of these sectors as it was at the flush or as any of the writes since made it, at random: lost,
reordered and torn. A flush makes durable what was written before it, a write with FUA itself. A flush takes some time,
as on a drive without power-loss protection, so that a cut is likely to strike one.

The protocol is the fixed newstyle handshake of https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
with plain replies, on a Unix socket, for one client at a time.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
FLUSH_S = 0.015

OPTION_MAGIC = 0x49484156454F5054  # IHAVEOPT
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_ERR_UNSUPPORTED = 1, 3, 0x80000001
INFO_EXPORT = 0
HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 4, 8
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA = 1
EINVAL = 22
EXPORT_FLAGS = HAS_FLAGS | SEND_FLUSH | SEND_FUA


class Plug:
    """Serves ``image`` on ``socket_path`` until ``close``. ``counts`` says what was done."""

    def __init__(self, image: Path, socket_path: Path) -> None:
        self._file = os.open(image, os.O_RDWR)
        self._bytes = os.fstat(self._file).st_size
        self._versions: dict[
            int, list[bytes]
        ] = {}  # of the sectors written since a flush; the first is the durable one
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(socket_path))
        self._listener.listen(1)
        self._closed = False
        self._powered = True
        self._thread = threading.Thread(target=self._serve, name="plug", daemon=True)
        self._thread.start()

    def pull(self, rng: Random) -> int:
        """The power is gone: how many sectors have lost their newest bytes.

        Nothing more is done or answered for the client that is connected now, which has to be killed next.
        """
        with self._lock:
            self._powered = False
            lost = 0
            kept = rng.choice((0.0, 0.2, 0.5, 0.8))  # of the newest versions
            for sector, versions in self._versions.items():
                version = versions[-1] if rng.random() < kept else rng.choice(versions[:-1])
                lost += version != versions[-1]
                os.pwrite(self._file, version, sector * SECTOR_BYTES)
            self._versions.clear()
            self.counts["pulled"] += 1
            self.counts["lost sectors"] += lost
            return lost

    def close(self) -> None:
        """Ends the service."""
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        os.close(self._file)

    # -- the protocol ----------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._powered = True
            with client:
                try:
                    if _handshake(client, self._bytes):
                        while self._answer(client):
                            pass
                except (ConnectionError, EOFError):
                    self.counts["dropped"] += 1  # the machine was killed

    def _answer(self, client: socket.socket) -> bool:
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQI", _receive(client, 28))
        if magic != REQUEST_MAGIC or kind == DISCONNECT:
            return False
        data = _receive(client, length) if kind == WRITE else b""
        error, found = 0, b""
        if kind == FLUSH:
            time.sleep(FLUSH_S)
        with self._lock:
            if not self._powered:
                return False
            if offset + length > self._bytes or kind not in (READ, WRITE, FLUSH):
                error = EINVAL
            elif kind == READ:
                found = os.pread(self._file, length, offset)
            elif kind == WRITE:
                self._write(offset, data, durable=bool(flags & FUA))
            else:
                self.counts["flushes"] += 1
                self._versions.clear()
        client.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, cookie) + found)
        return True

    def _write(self, offset: int, data: bytes, *, durable: bool) -> None:
        assert offset % SECTOR_BYTES == 0
        assert len(data) % SECTOR_BYTES == 0
        before = os.pread(self._file, len(data), offset)
        for at in range(0, len(data), SECTOR_BYTES):
            sector, part = (offset + at) // SECTOR_BYTES, slice(at, at + SECTOR_BYTES)
            if durable:
                self._versions.pop(sector, None)
            else:
                self._versions.setdefault(sector, [before[part]]).append(data[part])
        os.pwrite(self._file, data, offset)
        self.counts["writes"] += 1


def _handshake(client: socket.socket, size: int) -> bool:
    client.sendall(b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES))
    (client_flags,) = struct.unpack(">I", _receive(client, 4))
    while True:
        magic, option, length = struct.unpack(">QII", _receive(client, 16))
        _receive(client, length)  # the name of the export: there is only one
        if magic != OPTION_MAGIC or option == OPT_ABORT:
            return False
        if option == OPT_EXPORT_NAME:
            client.sendall(struct.pack(">QH", size, EXPORT_FLAGS) + bytes(0 if client_flags & NO_ZEROES else 124))
            return True
        if option in (OPT_INFO, OPT_GO):
            export = struct.pack(">HQH", INFO_EXPORT, size, EXPORT_FLAGS)
            client.sendall(_option_reply(option, REP_INFO, export) + _option_reply(option, REP_ACK, b""))
            if option == OPT_GO:
                return True
        else:
            client.sendall(_option_reply(option, REP_ERR_UNSUPPORTED, b""))


def _option_reply(option: int, kind: int, data: bytes) -> bytes:
    return struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def _receive(client: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        received = client.recv_into(view[at:])
        if not received:
            raise EOFError
        at += received
    return bytes(data)
