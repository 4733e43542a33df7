# SPDX-License-Identifier: Apache-2.0
"""Transfers of whole blocks through a real ``nixl_agent``: what ``check`` and ``bench`` do, in a few lines each."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from memkv_core.errors import MemKVError
from memkv_nixl._compat import NixlBuild, load_api

Blocks = npt.NDArray[np.uint8]  # shape (blocks, bytes of a block), contiguous

_POLL_S: Final = 100e-6  # as sglang polls; the core is left to those who move the bytes


A = TypeVar("A", bound="Agent")


class TransferError(MemKVError):
    """NIXL refused or failed an operation; the text holds its own error."""


class Agent:
    """An agent with one backend. ``kind`` is OBJ or FILE: what the other side of its transfers is."""

    def __init__(self, build: NixlBuild, backend: str, params: Mapping[str, str], *, kind: str = "OBJ") -> None:
        api = load_api(build)
        logging.getLogger("nixl").setLevel(logging.WARNING)
        self.backend = backend
        self.kind = kind
        self.name = f"memkv-{secrets.token_hex(4)}"
        self.errors = _errors(api)
        self._ids = itertools.count()
        with self._translated(f"backend {backend} cannot be created"):
            self.agent = api.nixl_agent(self.name, _config(api))
            self.agent.create_backend(backend, dict(params))

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except self.errors as error:
            raise TransferError(
                f"{what}: {str(error) or type(error).__name__}", remedy="see NIXL's log above"
            ) from error

    def exists(self, keys: Sequence[str]) -> list[bool]:
        """Whether each key is stored."""
        described = [(0, 0, number, key) for number, key in enumerate(keys)]
        with self._translated("the query failed"):
            return [found is not None for found in self.agent.query_memory(described, self.backend, self.kind)]

    def transfer(self, operation: str, blocks: Blocks, targets: Sequence[tuple[int, str]]) -> float:
        """Moves ``blocks`` to (WRITE) or from (READ) objects; seconds from the post to the end.

        ``targets`` are (device id, metaInfo) of each block's object, as NIXL's descriptors have them.
        """
        size = blocks.shape[1]
        rows = [(block.ctypes.data, size, 0) for block in blocks]
        with self._translated(f"{operation} failed"), contextlib.ExitStack() as stack:
            for described, kind in (
                ([(blocks.ctypes.data, blocks.nbytes, 0, "")], "DRAM"),
                ([(0, size, number, meta) for number, meta in targets], self.kind),
            ):
                registered = self.agent.register_memory(described, kind, backends=[self.backend])
                stack.callback(self.agent.deregister_memory, registered, backends=[self.backend])
            memory = self.agent.get_xfer_descs(rows, "DRAM")
            objects = self.agent.get_xfer_descs([(0, size, number) for number, _ in targets], self.kind)
            handle = self.agent.initialize_xfer(operation, memory, objects, self.name, backends=[self.backend])
            stack.callback(self.agent.release_xfer_handle, handle)
            started_s = time.perf_counter()
            state = self.agent.transfer(handle)
            while state == "PROC":
                time.sleep(_POLL_S)
                state = self.agent.check_xfer_state(handle)
            elapsed_s = time.perf_counter() - started_s
            if state != "DONE":
                raise TransferError(f"{operation} ended in state {state}")
            return elapsed_s

    def write(self, keys: Sequence[str], blocks: Blocks) -> float:
        return self.transfer("WRITE", blocks, self._targets(keys))

    def read(self, keys: Sequence[str], blocks: Blocks) -> float:
        return self.transfer("READ", blocks, self._targets(keys))

    def _targets(self, keys: Sequence[str]) -> list[tuple[int, str]]:
        # A device id of its own for each: NIXL finds a descriptor by it, and 1.0 finds those that are gone as well.
        return [(next(self._ids), key) for key in keys]

    def __enter__(self: A) -> A:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.agent  # NIXL ends an agent with its object


def _config(api: Any) -> Any:
    # Without a lock NIXL's own lists race where several threads share an agent. NIXL 1.0 cannot be asked for one.
    if "sync_mode" in inspect.signature(api.nixl_agent_config.__init__).parameters:
        return api.nixl_agent_config(backends=[], sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_RW)
    return api.nixl_agent_config(backends=[])


def _errors(api: Any) -> tuple[type[Exception], ...]:
    """NIXL's errors, which have no base of their own."""
    named = [getattr(api.nixlBind, name) for name in dir(api.nixlBind)]
    return tuple(one for one in named if isinstance(one, type) and issubclass(one, Exception))
