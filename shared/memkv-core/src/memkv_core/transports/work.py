# SPDX-License-Identifier: Apache-2.0
"""From transfers to chains of work requests, and the credits that bound what is under way. Pure but for the post.

A batch's transfers are one array; they become the fewest work requests: what follows the one before in remote memory
joins it, up to the device's number of parts and bytes, and what is too long is split.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from memkv_core.errors import LocalProtocolError
from memkv_core.transports.verbs import (
    Completion,
    Device,
    Endpoint,
    VerbsError,
    WorkKind,
    WorkRequest,
    WorkStatus,
    status_name,
)

# Equally long pieces of local and remote memory.
TRANSFER: Final = np.dtype([("local", "<u8"), ("remote", "<u8"), ("bytes", "<u4"), ("lkey", "<u4"), ("rkey", "<u4")])
Transfers = npt.NDArray[np.void]  # of TRANSFER
NO_TRANSFERS: Final = np.zeros(0, TRANSFER)


def plan(transfers: Transfers, device: Device) -> list[WorkRequest]:
    """The work requests for these transfers, in their order; transfers of no bytes are left out."""
    planned: list[WorkRequest] = []
    parts: list[tuple[int, int, int]] = []
    room = next_remote = 0  # of the last request: what it may still take, and where it ends
    last_rkey = -1
    for local, remote, size, lkey, rkey in transfers.tolist():
        while size:
            joins = room and remote == next_remote and rkey == last_rkey
            if joins and parts[-1][0] + parts[-1][1] == local and parts[-1][2] == lkey:
                taken = min(size, room)
                parts[-1] = (parts[-1][0], parts[-1][1] + taken, lkey)
            elif joins and len(parts) < device.sge_max:
                taken = min(size, room)
                parts.append((local, taken, lkey))
            else:
                room = device.message_bytes_max
                taken = min(size, room)
                parts, last_rkey = [(local, taken, lkey)], rkey
                planned.append(WorkRequest(remote, rkey, parts))
            local, remote, size, room = local + taken, remote + taken, size - taken, room - taken
            next_remote = remote
    return planned


class Finished(NamedTuple):
    """A submission that ended. With SUCCESS all of its bytes are there; else nothing more of it moves."""

    token: int
    status: int


class _Posted(NamedTuple):
    wr_id: int
    request_count: int
    token: int
    ends: bool  # with it the submission is complete


class _Waiting(NamedTuple):
    token: int
    kind: WorkKind
    requests: list[WorkRequest]
    imm: int | None


class SendQueue:
    """What one endpoint sends: submissions in their order, never more under way than the endpoint's depth.

    A submission that fits is one posting call; a longer one goes on as completions come. Used by one thread at a time.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.free = endpoint.send_depth  # work requests that may be posted now
        self.post_calls = 0
        self.work_requests = 0
        self._posted: deque[_Posted] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._next_wr_id = 0
        self._failed: int | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits."""
        return not self._posted and not self._waiting

    def submit(self, token: int, kind: WorkKind, transfers: Transfers, imm: int | None = None) -> None:
        """Starts a submission; ``token`` comes back when it ends. With ``imm`` the last write carries it.

        VerbsError where it cannot be posted: the endpoint is of no more use then, ``fail`` ends the others. A
        submission of no bytes and without ``imm`` is a LocalProtocolError: nothing would ever complete it.
        """
        if self._failed is not None:
            raise VerbsError(f"the queue pair has failed: {status_name(self._failed)}")
        requests = plan(transfers, self.endpoint.device)
        if not requests:
            if imm is None:
                raise LocalProtocolError("a submission of nothing")
            requests = [WorkRequest(0, 0, ())]
        self._waiting.append(_Waiting(token, kind, requests, imm))
        self._post()

    def _post(self) -> None:
        while self._waiting and self.free:
            token, kind, requests, imm = self._waiting[0]
            chain, rest = requests[: self.free], requests[self.free :]
            self.endpoint.post(kind, chain, self._next_wr_id, None if rest else imm)
            self._posted.append(_Posted(self._next_wr_id, len(chain), token, not rest))
            self._next_wr_id += 1
            self.free -= len(chain)
            self.post_calls += 1
            self.work_requests += len(chain)
            if rest:
                self._waiting[0] = _Waiting(token, kind, rest, imm)
            else:
                self._waiting.popleft()

    def completed(self, completion: Completion) -> list[Finished]:
        """Takes a completion of this endpoint's sends; what ended with it. Raises what ``submit`` does."""
        if self._failed is not None:
            return []  # the rest of what was flushed
        if completion.status != WorkStatus.SUCCESS:
            return self._fail_from(completion.wr_id, completion.status)
        finished: list[Finished] = []
        # In order: a chain's completion says the same of those before it.
        while self._posted and self._posted[0].wr_id <= completion.wr_id:
            posted = self._posted.popleft()
            self.free += posted.request_count
            if posted.ends:
                finished.append(Finished(posted.token, WorkStatus.SUCCESS))
        self._post()
        return finished

    def _fail_from(self, wr_id: int, status: int) -> list[Finished]:
        done = [posted for posted in self._posted if posted.wr_id < wr_id and posted.ends]
        failed = [posted.token for posted in self._posted if posted.wr_id >= wr_id or not posted.ends]
        failed += [waiting.token for waiting in self._waiting]
        finished = [Finished(posted.token, WorkStatus.SUCCESS) for posted in done]
        for at, token in enumerate(dict.fromkeys(failed)):
            finished.append(Finished(token, WorkStatus.WR_FLUSH_ERR if at else status))
        self._end(status)
        return finished

    def fail(self, status: int = WorkStatus.WR_FLUSH_ERR) -> list[Finished]:
        """Ends all that is under way, after ``endpoint.to_error`` or ``close``; nothing can be submitted afterwards."""
        tokens = dict.fromkeys([item.token for item in self._posted] + [item.token for item in self._waiting])
        self._end(status)
        return [Finished(token, status) for token in tokens]

    def _end(self, status: int) -> None:
        self._failed = status
        self.free = 0
        self._posted.clear()
        self._waiting.clear()
