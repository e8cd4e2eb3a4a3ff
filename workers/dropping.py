"""Which runs may be forgotten."""

from __future__ import annotations

from workers.ledger.errors import RunStateError
from workers.ledger.records import RunRecord, RunState

_ACTIVE = frozenset({RunState.RUNNING, RunState.PAUSED, RunState.BLOCKED, RunState.FINISHING})


def require_droppable(run: RunRecord) -> None:
    """Raise RunStateError for a run that somebody may be counting on."""
    if run.state in _ACTIVE:
        raise RunStateError(
            f"run {run.id} is {run.state.value}; cancel it before it is forgotten: rsembed fleet cancel {run.id}"
        )
