"""Heartbeats renew leases and bring back what a worker must know."""

from __future__ import annotations

import uuid

import pytest

from tests.ledger_parts import (
    admit_all,
    claim_shard,
    claim_unit,
    embed_all,
    execute,
    fetch_all,
    load,
    outcomes,
    part_of,
    worker,
)
from workers.ledger.errors import LedgerError
from workers.ledger.records import RunState
from workers.ledger.repository import Leadership, Ledger

LEFT = "SELECT extract(epoch FROM lease_until - clock_timestamp())::float FROM fetch_units WHERE state = 'leased'"


def test_heartbeat_when_leases_are_held_then_they_are_renewed_and_the_run_states_come_back(
    ledger_url: str, ledger: Ledger
) -> None:
    run = load(ledger)
    admit_all(ledger)
    mine = worker(ledger)
    unit = claim_unit(ledger, mine, lease_s=1.0)
    assert unit is not None
    answer = ledger.heartbeat(mine, [unit.token], lease_s=60, rss_bytes=123, claims=1)
    assert (answer.lost, answer.runs, answer.draining, answer.known) == (
        frozenset(), {run.id: RunState.RUNNING}, False, True,
    )  # fmt: skip
    ((left,),) = execute(ledger_url, LEFT)
    assert 55 < float(str(left)) <= 60
    (record,) = ledger.workers()
    assert (record.rss_bytes, record.leased) == (123, 1)
    assert record.claim_age_s is not None


def test_heartbeat_when_the_deadline_is_near_then_no_lease_goes_beyond_it(ledger_url: str, ledger: Ledger) -> None:
    load(ledger)
    admit_all(ledger)
    mine = worker(ledger)
    unit = claim_unit(ledger, mine, deadline_s=5.0)
    assert unit is not None
    ledger.heartbeat(mine, [unit.token], lease_s=60)
    ((left,),) = execute(ledger_url, LEFT)
    assert float(str(left)) <= 5


@pytest.mark.parametrize("change", ["pause", "cancel"])
def test_heartbeat_when_the_run_was_stopped_then_the_holder_sees_it_and_keeps_the_lease(
    ledger: Ledger, change: str
) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    mine = worker(ledger)
    unit = claim_unit(ledger, mine)
    assert unit is not None
    ledger.pause(run.id, None, "t") if change == "pause" else ledger.cancel(run.id, "t")
    answer = ledger.heartbeat(mine, [unit.token], lease_s=20)
    assert answer.lost == frozenset()
    assert answer.runs == {run.id: RunState.PAUSED if change == "pause" else RunState.CANCELLING}
    assert ledger.release_unit(unit.token)


def test_heartbeat_when_leases_are_gone_then_they_are_named(ledger: Ledger, leader: Leadership) -> None:
    load(ledger, 10)
    admit_all(ledger)
    mine = worker(ledger)
    lost, kept = claim_unit(ledger, mine, lease_s=0.0), claim_unit(ledger, mine)
    assert lost is not None
    assert kept is not None
    leader.sweep(0)
    answer = ledger.heartbeat(mine, [lost.token, kept.token], lease_s=20)
    assert answer.lost == {lost.token}


def test_heartbeat_when_the_run_was_dropped_then_its_leases_are_lost(ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    mine = worker(ledger)
    unit = claim_unit(ledger, mine)
    assert unit is not None
    ledger.drop(run.id, "tester")
    assert ledger.heartbeat(mine, [unit.token], lease_s=20).lost == {unit.token}
    assert not ledger.settle_rows(unit.token, outcomes(unit)).kept


def test_heartbeat_when_a_unit_has_just_been_settled_then_it_does_not_count_as_lost(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    mine = worker(ledger)
    unit = claim_unit(ledger, mine)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit))
    shard = claim_shard(ledger, mine)
    assert shard is not None
    ledger.settle_shard(shard.token, part_of(shard))
    assert ledger.heartbeat(mine, [unit.token, shard.token], lease_s=20).lost == frozenset()


def test_heartbeat_when_shards_and_finishing_are_held_then_they_are_renewed_as_well(
    ledger: Ledger, leader: Leadership
) -> None:
    first = load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    mine = worker(ledger)
    shard, taken = claim_shard(ledger, mine, lease_s=0.1), ledger.take_finishing(mine, 0.1)
    assert shard is not None
    assert taken is not None
    assert (taken[0].id, taken[0].state) == (first.id, RunState.FINISHING)
    answer = ledger.heartbeat(mine, [shard.token, taken[1]], lease_s=60)
    assert answer.lost == frozenset()
    assert set(answer.runs.values()) == {RunState.RUNNING, RunState.FINISHING}
    found = leader.sweep(0)
    assert (found.shards, found.finishing) == (0, 0)


def test_heartbeat_when_the_ledger_has_forgotten_the_worker_then_it_says_so(ledger: Ledger) -> None:
    assert not ledger.heartbeat(str(uuid.uuid4()), [], lease_s=20).known


@pytest.mark.parametrize("target", ["worker", "queues", "all"])
def test_heartbeat_when_draining_then_the_worker_is_told(ledger: Ledger, target: str) -> None:
    mine = worker(ledger, queues=("io", "cpu"))
    named = {"worker": [mine], "queues": ["io", "cpu"], "all": [None]}[target]
    for each in named:
        assert ledger.drain(each, True, "tester") == 1
    assert ledger.heartbeat(mine, [], lease_s=20).draining
    for each in named:
        ledger.drain(each, False, "tester")
    assert not ledger.heartbeat(mine, [], lease_s=20).draining


def test_drain_when_neither_worker_nor_queue_has_that_name_then_the_error_says_so(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="'gpux' is neither"):
        ledger.drain("gpux", True, "tester")


def test_worker_when_degraded_then_it_is_shown_with_its_reason(ledger: Ledger) -> None:
    mine = worker(ledger)
    ledger.degrade(mine, "alpha", "no weights\0")
    assert ledger.workers()[0].degraded == {"alpha": "no weights\ufffd"}
    ledger.degrade(mine, "alpha", None)
    assert ledger.workers()[0].degraded == {}


def test_worker_when_retired_or_silent_then_it_is_not_live(ledger_url: str, ledger: Ledger, leader: Leadership) -> None:
    gone, silent = worker(ledger), worker(ledger)
    ledger.retire(gone)
    execute(ledger_url, "UPDATE workers SET heartbeat_at = heartbeat_at - interval '5 minutes' WHERE id = %s", silent)
    assert ledger.workers() == []
    assert leader.sweep(0).workers == 1
    assert {record.state for record in ledger.workers(live_only=False)} == {"stopped"}
    ledger.heartbeat(silent, [], lease_s=20)
    assert [record.info.id for record in ledger.workers()] == [silent]


def test_worker_when_idle_while_work_is_ready_then_it_is_found(ledger_url: str, ledger: Ledger) -> None:
    load(ledger)
    admit_all(ledger)
    idle, busy, degraded = worker(ledger), worker(ledger), worker(ledger)
    ledger.heartbeat(busy, [], lease_s=20, claims=0)
    ledger.degrade(degraded, "io", "no bucket")
    execute(ledger_url, "UPDATE workers SET started_at = started_at - interval '5 minutes'")
    ledger.heartbeat(busy, [], lease_s=20, claims=1)
    assert ledger.idle_workers(60) == []
    execute(ledger_url, "UPDATE fetch_units SET ready_at = ready_at - interval '2 minutes'")
    assert ledger.queue_ages()["io"] > 100
    assert [record.info.id for record in ledger.idle_workers(60)] == [idle]
    names = {measure.name for measure in ledger.metrics()}
    assert {"worker_idle_seconds", "oldest_ready_seconds", "worker_degraded", "units"} <= names
