"""A clock that is turned by hand, a ledger that answers as told, a lease and a process around them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import ClaimedShard, ClaimedUnit, HeartbeatAnswer, Marks, ModelEntry, RunState, WorkerInfo
from workers.process import WorkerProcess


class Clock:
    """Monotonic seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class ScriptedLedger:
    """``lost``, ``runs``, ``draining``, ``known``: its next answers. ``delay_s``: what a heartbeat takes."""

    clock: Clock
    away: bool = False
    delay_s: float = 0.0
    lost: frozenset[str] = frozenset()
    runs: dict[int, RunState] = field(default_factory=dict)
    draining: bool = False
    known: bool = True
    registered: int = 0
    beats: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    degraded: list[tuple[str, str | None]] = field(default_factory=list)
    marks: list[tuple[str, Marks]] = field(default_factory=list)
    retired: bool = False

    def _answer(self) -> None:
        self.clock.forward(self.delay_s)
        if self.away:
            raise LedgerUnavailableError("away")

    def register(self, info: WorkerInfo) -> None:
        self._answer()
        self.registered += 1
        self.known = True

    def heartbeat(
        self, worker_id: str, tokens: Collection[str], *, lease_s: float, rss_bytes: int, claims: int
    ) -> HeartbeatAnswer:
        self._answer()
        self.beats.append((tuple(tokens), claims))
        return HeartbeatAnswer(self.lost & set(tokens), self.runs, self.draining, self.known)

    def degrade(self, worker_id: str, model: str, reason: str | None) -> None:
        self._answer()
        self.degraded.append((model, reason))

    def mark_unit(self, token: str, marks: Marks) -> bool:
        self._answer()
        self.marks.append((token, marks))
        return True

    def mark_shard(self, token: str, marks: Marks) -> bool:
        return self.mark_unit(token, marks)

    def retire(self, worker_id: str) -> None:
        self._answer()
        self.retired = True


class LeftError(Exception):
    """The process would have ended here."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _leave(code: int) -> None:
    raise LeftError(code)


def unit(token: str = "u1", *, run: int = 1, losses: int = 0, deadline_s: float = 600.0) -> ClaimedUnit:
    return ClaimedUnit(run, 0, 3, token, 0, 768, 256, None, frozenset(), losses, Marks(), deadline_s)


def shard(token: str = "s1", *, losses: int = 0) -> ClaimedShard:
    model = ModelEntry(0, "alpha", "alpha", 0, "gpu.alpha")
    return ClaimedShard(1, model, 3, token, 0, 768, 256, None, losses, Marks(), 600.0, None, None, {}, 0)


def worker(
    ledger: ScriptedLedger, *, rss: Callable[[], int] = lambda: 100, memory_bytes: int = 0, probe_s: float = 60.0
) -> WorkerProcess:
    """Lease 20 s, heartbeat 5 s, grace 25 s."""
    info = WorkerInfo("w-1", "io", "host", 1, ("io",), (), "cpu", "0")
    return WorkerProcess(
        ledger,
        info,
        lease_s=20.0,
        heartbeat_s=5.0,
        deadline_s=600.0,
        probe_s=probe_s,
        memory_bytes=memory_bytes,
        grace_s=25.0,
        clock=ledger.clock,
        rss=rss,
        leave=_leave,
    )
