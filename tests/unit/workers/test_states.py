"""Which state may follow which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers.ledger.errors import RunStateError
from workers.ledger.records import RunState, ShardState, UnitState
from workers.ledger.states import (
    ENDED_RUNS,
    OPEN_SHARDS,
    RUN_MOVES,
    SHARD_MOVES,
    UNIT_MOVES,
    require_run_move,
    runs_before,
    shown_shard_state,
)

LEDGER = Path(__file__).resolve().parents[3] / "workers" / "ledger"


def test_moves_when_listed_then_every_state_has_its_own() -> None:
    assert set(RUN_MOVES) == set(RunState)
    assert set(UNIT_MOVES) == set(UnitState)
    assert set(SHARD_MOVES) == set(ShardState)


@pytest.mark.parametrize("state", RunState)
def test_run_when_in_any_state_then_it_can_be_dropped_but_not_by_two(state: RunState) -> None:
    assert (RunState.DROPPING in RUN_MOVES[state]) is (state is not RunState.DROPPING)


@pytest.mark.parametrize("state", [RunState.DONE, RunState.DONE_WITH_FAILURES])
def test_run_when_done_then_only_a_retry_moves_it(state: RunState) -> None:
    assert RUN_MOVES[state] == {RunState.RUNNING, RunState.DROPPING}


def test_run_when_a_move_is_not_legal_then_the_error_says_from_where_it_would_be() -> None:
    with pytest.raises(RunStateError, match="run 7 is done; paused can follow blocked, running"):
        require_run_move(7, RunState.DONE, RunState.PAUSED)
    require_run_move(7, RunState.RUNNING, RunState.PAUSED)


def test_states_before_when_asked_then_they_are_as_the_database_writes_them() -> None:
    assert runs_before(RunState.CANCELLED) == ["cancelling"]
    assert runs_before(RunState.LOADING) == []


def test_shard_when_its_run_is_cancelled_then_it_counts_as_cancelled_unless_it_ended() -> None:
    assert shown_shard_state(RunState.CANCELLED, ShardState.READY) is ShardState.CANCELLED
    assert shown_shard_state(RunState.CANCELLED, ShardState.DONE) is ShardState.DONE
    assert shown_shard_state(RunState.PAUSED, ShardState.READY) is ShardState.READY


def test_ends_when_listed_then_nothing_goes_on_from_them_by_itself() -> None:
    assert {RunState.CANCELLED, RunState.DONE, RunState.DONE_WITH_FAILURES} == ENDED_RUNS
    assert {ShardState.WAITING, ShardState.READY, ShardState.LEASED} == OPEN_SHARDS


def test_statements_when_they_open_a_run_table_then_partitions_are_pruned() -> None:
    """Unpruned, a statement looks at the partition of every run there ever was."""
    for path in LEDGER.glob("*.py"):
        for statement in re.findall(r'"""(.*?)"""|"([^"\n]*)"', path.read_text(encoding="utf-8"), re.DOTALL):
            text = statement[0] or statement[1]
            reads = re.findall(r"(?:FROM|JOIN|UPDATE|USING|DELETE FROM)\s+(?:rows|fetch_jobs)\b(?:\s+(\w+))?", text)
            if reads and re.search(r"\b(SELECT|DELETE|UPDATE)\b", text):
                assert re.search(r"\b(?:\w+\.)?run_id = :run\b", text), f"{path.name}: {text}"
