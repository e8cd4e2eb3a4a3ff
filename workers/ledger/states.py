"""Which state may follow which; every statement that changes a state is guarded by these tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from workers.ledger.errors import RunStateError
from workers.ledger.records import RunState, ShardState, UnitState

_R, _U, _S = RunState, UnitState, ShardState
State = TypeVar("State", RunState, UnitState, ShardState)

RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    _R.LOADING: frozenset({_R.RUNNING, _R.DROPPING}),
    _R.RUNNING: frozenset({_R.PAUSED, _R.BLOCKED, _R.CANCELLING, _R.FINISHING, _R.DROPPING}),
    _R.PAUSED: frozenset({_R.RUNNING, _R.CANCELLING, _R.DROPPING}),
    _R.BLOCKED: frozenset({_R.RUNNING, _R.PAUSED, _R.CANCELLING, _R.DROPPING}),
    _R.CANCELLING: frozenset({_R.CANCELLED, _R.DROPPING}),
    _R.CANCELLED: frozenset({_R.RUNNING, _R.DROPPING}),
    _R.FINISHING: frozenset({_R.RUNNING, _R.BLOCKED, _R.DONE, _R.DONE_WITH_FAILURES, _R.DROPPING}),
    _R.DONE: frozenset({_R.RUNNING, _R.DROPPING}),
    _R.DONE_WITH_FAILURES: frozenset({_R.RUNNING, _R.DROPPING}),
    _R.DROPPING: frozenset(),
}
"""A finished run goes back to running by a retry, a cancelled one when it is resumed."""

UNIT_MOVES: Mapping[UnitState, frozenset[UnitState]] = {
    _U.PENDING: frozenset({_U.LEASED}),
    _U.LEASED: frozenset({_U.PENDING, _U.DONE}),
    _U.DONE: frozenset({_U.PENDING}),
}
"""Done to pending: a retry, or inputs that were lost."""

SHARD_MOVES: Mapping[ShardState, frozenset[ShardState]] = {
    _S.WAITING: frozenset({_S.READY}),
    _S.READY: frozenset({_S.LEASED, _S.WAITING}),
    _S.LEASED: frozenset({_S.READY, _S.WAITING, _S.DONE, _S.FAILED}),
    _S.DONE: frozenset({_S.WAITING, _S.READY}),
    _S.FAILED: frozenset({_S.WAITING, _S.READY}),
    _S.CANCELLED: frozenset(),
}
"""Done to waiting: a retry; to ready: its file was lost.

``cancelled`` is never stored: shards of a cancelled run count as such, and keep their state should it be resumed.
"""

ENDED_RUNS = frozenset({_R.CANCELLED, _R.DONE, _R.DONE_WITH_FAILURES})
"""Nothing happens in these without an operator."""

OPEN_SHARDS = frozenset({_S.WAITING, _S.READY, _S.LEASED})
"""Shards that still need their inputs."""


def runs_before(target: RunState) -> list[str]:
    """The states from which a run may move to ``target``, as the database writes them."""
    return sorted(state.value for state, moves in RUN_MOVES.items() if target in moves)


def require_run_move(run_id: int, old: RunState, target: RunState) -> None:
    """Raise RunStateError unless a run may go from ``old`` to ``target``."""
    if target not in RUN_MOVES[old]:
        allowed = ", ".join(runs_before(target)) or "no other"
        raise RunStateError(f"run {run_id} is {old.value}; {target.value} can follow {allowed}")


def shown_shard_state(run: RunState, shard: ShardState) -> ShardState:
    """What ``shard`` counts as, given the state of its run."""
    if run in (_R.CANCELLING, _R.CANCELLED) and shard in OPEN_SHARDS:
        return _S.CANCELLED
    return shard
