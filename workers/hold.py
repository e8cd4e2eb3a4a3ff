"""A unit or shard that this process holds, and how it learns that it must let go.

The lease is renewed by the process's heartbeat. What is written under a lease that may have gone
to another worker would be written twice, so a hold counts as lost once its last renewal is older
than two thirds of the lease by this machine's own monotonic clock, whatever the ledger would say.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

from workers.ledger.records import Marks, RunState

LetGo = Literal["lost", "cancelled", "paused", "deadline", "stop"]
FENCE = 2 / 3
"""Share of the lease after which a hold that was not renewed may no longer be written under."""

_PAUSED = frozenset({RunState.PAUSED, RunState.BLOCKED})
_CANCELLED = frozenset({RunState.CANCELLING, RunState.CANCELLED, RunState.DROPPING})


class Leased(Protocol):
    """What the ledger leases: fetch units, shards, runs to be finished."""

    @property
    def run(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def deadline_s(self) -> float: ...


C_co = TypeVar("C_co", bound=Leased, covariant=True)


@dataclass(frozen=True)
class FinishingLease:
    """The lease of a run that is being finished, as `Leased`; seconds."""

    run: int
    token: str
    deadline_s: float


class Hold(Generic[C_co]):
    """One lease of this process, for a ``with`` block; made by `WorkerProcess.claim` and `.holding`.

    ``stopping`` is set as soon as `should_stop` turns true, for waits that take an event; it is
    never cleared. ``claimed_at`` is the monotonic time before the claim was sent (seconds).
    The end of the block ends the renewals; settling or releasing is the holder's business.
    """

    def __init__(
        self,
        claimed: C_co,
        *,
        lease_s: float,
        claimed_at: float,
        clock: Callable[[], float],
        end: Callable[[Hold[Leased]], None],
        renew: Callable[[], bool] | None = None,
        write_marks: Callable[[str, Marks], bool] | None = None,
    ) -> None:
        self.claimed: C_co = claimed
        self.stopping = threading.Event()
        self.renew = renew
        self.marks: Marks = getattr(claimed, "marks", Marks())
        self.alone = getattr(claimed, "losses", 0) > 0
        """A suspect: its process died before, so nothing else runs beside it."""
        self._lease_s = lease_s
        self._deadline = claimed_at + claimed.deadline_s
        self._renewed_at = claimed_at
        self._clock = clock
        self._end = end
        self._write_marks = write_marks
        self._run_state: RunState | None = None
        self._reason: LetGo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end(self)

    @property
    def token(self) -> str:
        """The fencing token of the lease."""
        return self.claimed.token

    @property
    def lost(self) -> bool:
        """Whether the lease is, or may be, another's; then nothing may be written under it."""
        if self._reason != "lost" and self._clock() - self._renewed_at > self._lease_s * FENCE:
            self.let_go("lost")
        return self._reason == "lost"

    @property
    def run_state(self) -> RunState | None:
        """State of the run at the last heartbeat; None before the first."""
        return self._run_state

    @property
    def reason(self) -> LetGo | None:
        """Why the work has to stop; None while it may go on. Losing the lease outweighs the rest."""
        self.should_stop()
        return self._reason

    @property
    def overdue_s(self) -> float:
        """Seconds past the deadline; negative before it."""
        return self._clock() - self._deadline

    def should_stop(self) -> bool:
        """Whether to release at the next batch or fetch: see `reason`."""
        if not self.lost and self._reason is None and self.overdue_s >= 0:
            self.let_go("deadline")
        return self._reason is not None

    def mark(self, marks: Marks) -> bool:
        """Write the marks of a suspect to the ledger before what they name is run; False when fenced.

        LedgerUnavailableError when the ledger is away.
        """
        if self._write_marks is None:
            return False
        self.marks = marks
        return not self.lost and self._write_marks(self.token, marks)

    def let_go(self, reason: LetGo) -> None:
        """Have the work stop; the first reason stays unless the lease is lost later."""
        if self._reason is None or reason == "lost":
            self._reason = reason
        self.stopping.set()

    def renewed(self, sent_at: float) -> None:
        """The ledger renewed the lease by a statement sent at ``sent_at`` (monotonic seconds)."""
        if not self.lost:
            self._renewed_at = max(self._renewed_at, sent_at)

    def seen(self, state: RunState) -> None:
        """The run's state, as the heartbeat brought it."""
        self._run_state = state
        if state in _CANCELLED:
            self.let_go("cancelled")
        elif state in _PAUSED:
            self.let_go("paused")
