"""Fetch units: one claimer each, outcomes once, nothing from a fenced worker."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.ledger_parts import (
    admit_all,
    claim_shard,
    claim_unit,
    execute,
    fetch_all,
    load,
    outcomes,
    to_do,
    worker,
)
from workers.ledger.records import Marks, RunState, SettleAnswer
from workers.ledger.repository import Leadership, Ledger

ROOT = Path(__file__).resolve().parents[3]


def test_claim_when_nothing_is_admitted_then_there_is_nothing(ledger: Ledger) -> None:
    load(ledger)
    assert claim_unit(ledger) is None


def test_claim_when_units_are_admitted_then_the_lowest_comes_first_and_whole(ledger: Ledger) -> None:
    run = load(ledger, 25)
    assert admit_all(ledger) == 6
    unit = claim_unit(ledger)
    assert unit is not None
    assert (unit.run, unit.group, unit.shard, unit.first_seq, unit.n_rows) == (run.id, 0, 0, 0, 10)
    assert (unit.wanted, unit.settled, unit.losses, unit.marks) == (None, frozenset(), 0, Marks())


def test_claim_when_many_threads_claim_then_no_unit_is_given_twice(ledger_url: str, ledger: Ledger) -> None:
    load(ledger, 600)
    admit_all(ledger)

    def drain() -> list[tuple[int, int]]:
        own, found = Ledger(ledger_url), []
        while (unit := claim_unit(own)) is not None:
            found.append((unit.group, unit.shard))
        own.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        found = Counter(unit for future in [pool.submit(drain) for _ in range(8)] for unit in future.result())
    assert len(found) == 120
    assert set(found.values()) == {1}


def test_claim_when_processes_claim_and_settle_then_every_row_has_one_outcome(ledger_url: str, ledger: Ledger) -> None:
    load(ledger, 300)
    admit_all(ledger)
    program = (
        "import sys\n"
        "from tests.ledger_parts import embed_all, fetch_all\n"
        "from workers.ledger.repository import Ledger\n"
        "own = Ledger(sys.argv[1])\n"
        "print(fetch_all(own) + embed_all(own))\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, ledger_url], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(2)
    ]
    done = [int(child.communicate(timeout=120)[0]) for child in children]
    assert fetch_all(ledger) == 0
    assert sum(done) >= 60
    assert ledger.check() == []


def test_claim_when_a_run_has_priority_then_it_goes_first(ledger: Ledger) -> None:
    low, high = load(ledger), load(ledger, priority=5)
    admit_all(ledger)
    claimed = [unit.run for _ in range(9) if (unit := claim_unit(ledger)) is not None]
    assert claimed == [high.id] * 8 + [low.id]


def test_claim_when_runs_are_equal_then_the_one_with_fewer_leases_goes_first(ledger: Ledger) -> None:
    load(ledger), load(ledger)
    admit_all(ledger)
    claimed = Counter(unit.run for _ in range(6) if (unit := claim_unit(ledger)) is not None)
    assert sorted(claimed.values()) == [3, 3]


def test_claim_when_a_run_is_paused_then_nothing_of_it_is_given(ledger: Ledger) -> None:
    run = load(ledger)
    admit_all(ledger)
    assert ledger.pause(run.id, "lunch", "tester")
    assert claim_unit(ledger) is None
    assert ledger.resume(run.id, "tester")
    assert claim_unit(ledger) is not None


def test_claim_when_the_worker_drains_then_it_gets_nothing_and_others_do(ledger: Ledger) -> None:
    load(ledger)
    admit_all(ledger)
    mine = worker(ledger)
    ledger.drain(mine, True, "tester")
    assert claim_unit(ledger, mine) is None
    assert claim_unit(ledger, worker(ledger)) is not None


def test_claim_when_the_queue_drains_then_nobody_gets_anything(ledger: Ledger) -> None:
    load(ledger)
    admit_all(ledger)
    ledger.drain("io", True, "tester")
    assert claim_unit(ledger) is None
    ledger.drain("io", False, "tester")
    assert claim_unit(ledger) is not None


def test_claim_when_a_unit_is_suspect_then_only_an_idle_process_gets_it(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.release_unit(unit.token, losses_refund=False)
    other = claim_unit(ledger, alone=False)
    assert other is not None
    assert other.group != unit.group
    again = claim_unit(ledger, alone=True)
    assert again is not None
    assert (again.group, again.losses) == (unit.group, 1)


def test_claim_when_requests_are_spent_then_the_run_gives_no_more(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger, max_requests=12)
    admit_all(ledger)
    assert fetch_all(ledger) == 2
    assert leader.pause_spent() == [run.id]
    assert ledger.run(run.id).reason == "all 12 requests are spent"
    ledger.set_max_requests(run.id, None, "tester")
    ledger.resume(run.id, "tester")
    assert fetch_all(ledger) == 6


def test_settle_when_some_rows_are_open_then_the_unit_stays_ours(ledger: Ledger) -> None:
    load(ledger)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    assert ledger.settle_rows(unit.token, outcomes(unit, [0, 1])) == SettleAnswer(kept=True, open_rows=8)
    assert ledger.settle_rows(unit.token, outcomes(unit, [1, 2])) == SettleAnswer(kept=True, open_rows=7)
    assert ledger.check() == []


def test_settle_when_the_last_row_comes_then_the_shards_of_all_its_models_are_ready(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, range(9)))
    assert claim_shard(ledger) is None
    assert ledger.settle_rows(unit.token, outcomes(unit, [9])).open_rows == 0
    ready = {shard.model.label for _ in range(3) if (shard := claim_shard(ledger)) is not None}
    assert ready == {"a", "b"}


def test_settle_when_repeated_then_nothing_is_counted_twice(ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    for _ in range(2):
        ledger.settle_rows(unit.token, outcomes(unit, [0, 1], failed=[1]), requests=5, stored_bytes=7)
    whole = outcomes(unit)
    for _ in range(2):
        assert ledger.settle_rows(unit.token, whole, requests=8) == SettleAnswer(kept=True, open_rows=0)
    assert ledger.status(run.id).requests == 13
    assert ledger.check() == []


def test_settle_when_the_first_outcome_of_a_row_stands_then_a_later_one_does_not_change_it(ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, [3]))
    ledger.settle_rows(unit.token, outcomes(unit, [3], failed=[3]))
    assert ledger.failures(run.id) == []


def test_settle_when_the_lease_was_lost_then_nothing_is_written(ledger: Ledger, leader: Leadership) -> None:
    load(ledger, 10)
    admit_all(ledger)
    late = claim_unit(ledger, lease_s=0.0)
    assert late is not None
    assert leader.sweep(0).units == 1
    assert ledger.settle_rows(late.token, outcomes(late), requests=9) == SettleAnswer(kept=False, open_rows=0)
    assert ledger.release_unit(late.token) is False
    assert ledger.mark_unit(late.token, Marks((1,))) is False
    again = claim_unit(ledger)
    assert again is not None
    assert (again.shard, again.losses, again.settled) == (late.shard, 1, frozenset())
    assert ledger.settle_rows(late.token, outcomes(late)) == SettleAnswer(kept=False, open_rows=0)
    assert ledger.settle_rows(again.token, outcomes(again)).open_rows == 0


def test_settle_when_fenced_and_holder_settle_at_once_then_only_the_holder_counts(
    ledger_url: str, ledger: Ledger, leader: Leadership
) -> None:
    run = load(ledger, 200)
    admit_all(ledger)
    late = []
    while (unit := claim_unit(ledger, lease_s=0.0)) is not None:
        late.append(unit)
    leader.sweep(0)
    start = threading.Barrier(2)

    def fenced() -> list[bool]:
        own = Ledger(ledger_url)
        start.wait()
        kept = [own.settle_rows(unit.token, outcomes(unit, failed=range(10)), requests=10).kept for unit in late]
        own.close()
        return kept

    with ThreadPoolExecutor(1) as pool:
        loser = pool.submit(fenced)
        start.wait()
        assert fetch_all(ledger) == len(late)
        assert not any(loser.result())
    status = ledger.status(run.id)
    assert (status.failures, status.requests) == ({}, 400)
    assert ledger.check() == []


def test_release_when_rows_were_settled_then_the_next_claim_has_only_the_others(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, [0, 4]))
    assert ledger.release_unit(unit.token)
    again = claim_unit(ledger)
    assert again is not None
    assert (to_do(again), again.losses) == ([1, 2, 3, 5, 6, 7, 8, 9], 0)
    assert again.token != unit.token


def test_release_when_not_before_is_given_then_nobody_claims_it_sooner(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.release_unit(unit.token, not_before_s=60, error="the store is full")
    other = claim_unit(ledger)
    assert other is not None
    assert other.group != unit.group
    assert claim_unit(ledger) is None
    ledger.release_unit(other.token, error="the store is full")
    (event,) = [event for event in ledger.events(unit.run) if event.kind == "unit_released"]
    assert event.detail["error"] == "the store is full"


def test_marks_when_written_then_the_next_claimer_reads_them(ledger: Ledger, leader: Leadership) -> None:
    load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger, lease_s=0.0)
    assert unit is not None
    marks = Marks((3, 4), {3: 1}, ((0, 1),), out_of_memory=True)
    assert ledger.mark_unit(unit.token, marks)
    leader.sweep(0)
    again = claim_unit(ledger)
    assert again is not None
    assert again.marks == marks


def test_failures_when_settled_then_their_tracebacks_are_stored_once(ledger_url: str, ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, failed=range(10)))
    found = ledger.failures(run.id, "provider")
    assert [row.seq for row in found] == list(range(10))
    assert {row.failure.traceback for row in found} == {"Trace\n  here\nError: x"}
    assert found[3].failure.message == "no luck with 3"
    assert found[3].label == "a+b"
    assert execute(ledger_url, "SELECT count(*) FROM tracebacks") == [(1,)]
    assert ledger.failures(run.id, "transient") == []


def test_reserved_bytes_when_a_unit_is_done_then_they_are_what_was_stored(ledger_url: str, ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    reserved = "SELECT reserved_bytes FROM fetch_units ORDER BY group_index"
    assert execute(ledger_url, reserved) == [(1000,), (500,)]
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit), stored_bytes=123)
    assert execute(ledger_url, reserved) == [(123,), (500,)]


def test_admission_when_the_budget_is_small_then_one_unit_is_always_admitted(ledger: Ledger) -> None:
    load(ledger)
    assert ledger.admit(1, 100) == 1
    assert ledger.admit(1, 100) == 0


def test_admission_when_no_worker_serves_a_fetch_then_its_units_wait(ledger: Ledger) -> None:
    load(ledger, 40)
    assert ledger.admit(10**9, 100, ["gamma"]) == 4
    unit = claim_unit(ledger)
    assert unit is not None
    assert unit.group == 1
    assert ledger.admit(10**9, 100, []) == 0


def test_admission_when_a_run_is_cancelled_then_its_reservation_is_freed(ledger_url: str, ledger: Ledger) -> None:
    run = load(ledger)
    admit_all(ledger)
    ledger.cancel(run.id, "tester")
    leader = ledger.lead()
    assert leader is not None
    assert leader.sweep(0).cancelled == 1
    leader.close()
    assert ledger.run(run.id).state is RunState.CANCELLED
    assert execute(ledger_url, "SELECT sum(reserved_bytes) FROM fetch_units") == [(0,)]
    ledger.resume(run.id, "tester")
    assert admit_all(ledger) == 8


def test_worker_when_unknown_to_the_ledger_then_it_may_claim(ledger: Ledger) -> None:
    load(ledger)
    admit_all(ledger)
    assert claim_unit(ledger, str(uuid.uuid4())) is not None
