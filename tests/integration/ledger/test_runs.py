"""Runs as operators handle them: stopped, dropped, looked at, checked."""

from __future__ import annotations

import threading

import pytest

from rsembed.pipelines.checkpoint import PartRecord
from tests.ledger_parts import (
    admit_all,
    claim_shard,
    claim_unit,
    embed_all,
    execute,
    fetch_all,
    finish,
    load,
    outcomes,
    part_of,
    stored,
)
from workers.ledger.errors import LedgerError, RunStateError, UnknownRunError
from workers.ledger.records import RunState
from workers.ledger.repository import Ledger

PARTITIONS = "SELECT relname FROM pg_class WHERE relname ~ '^(rows|fetch_jobs)_r[0-9]+$' ORDER BY 1"


def done_run(ledger: Ledger, n: int = 25) -> int:
    run = load(ledger, n)
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    finish(ledger)
    return run.id


def test_run_when_unknown_then_every_door_says_so(ledger: Ledger) -> None:
    for door in (ledger.run, ledger.status, ledger.failures, ledger.unblock):
        with pytest.raises(UnknownRunError, match="no run 99"):
            door(99)
    with pytest.raises(UnknownRunError):
        ledger.pause(99, None, "tester")


def test_run_when_paused_twice_then_the_second_changes_nothing(ledger: Ledger) -> None:
    run = load(ledger)
    assert ledger.pause(run.id, "lunch", "tester")
    assert not ledger.pause(run.id, None, "tester")
    assert (ledger.run(run.id).state, ledger.run(run.id).reason) == (RunState.PAUSED, "lunch")
    assert ledger.resume(run.id, "tester")
    assert not ledger.resume(run.id, "tester")
    assert ledger.run(run.id).reason is None


def test_run_when_done_then_it_cannot_be_paused_and_stays_done(ledger: Ledger) -> None:
    run_id = done_run(ledger)
    with pytest.raises(RunStateError, match="is done; paused can follow"):
        ledger.pause(run_id, None, "tester")
    assert ledger.run(run_id).state is RunState.DONE


def test_run_when_ended_then_its_requests_are_kept(ledger: Ledger) -> None:
    run_id = done_run(ledger)
    found = ledger.run(run_id)
    assert found.requests == 50
    assert found.ended_at is not None
    assert ledger.runs(active=True) == []
    assert [run.id for run in ledger.runs()] == [run_id]


def test_finishing_when_shards_are_open_then_there_is_nothing_to_finish(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    shard = claim_shard(ledger)
    assert shard is not None
    embed_all(ledger)
    assert ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20) is None
    ledger.settle_shard(shard.token, part_of(shard))
    assert ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20) is not None
    assert ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20) is None


def test_finishing_when_ended_twice_with_the_same_token_then_it_is_a_success(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    taken = ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20)
    assert taken is not None
    assert ledger.end_run(taken[1], RunState.DONE)
    assert ledger.end_run(taken[1], RunState.DONE)


def test_drop_when_done_then_nothing_of_the_run_is_left_but_its_events(ledger_url: str, ledger: Ledger) -> None:
    run_id, kept = done_run(ledger), load(ledger)
    ledger.drop(run_id, "tester")
    assert execute(ledger_url, PARTITIONS) == [(f"fetch_jobs_r{kept.id}",), (f"rows_r{kept.id}",)]
    for table in ("fetch_units", "infer_jobs", "parts", "run_models", "failures", "progress", "tracebacks"):
        assert execute(ledger_url, f"SELECT count(*) FROM {table} WHERE run_id = %s", run_id) == [(0,)]
    assert [run.id for run in ledger.runs()] == [kept.id]
    assert {event.kind for event in ledger.events(run_id)} >= {"submitted", "run_dropping", "run_dropped"}
    assert ledger.check() == []


def test_drop_when_it_did_not_come_to_its_end_then_it_may_be_repeated(ledger_url: str, ledger: Ledger) -> None:
    run_id = done_run(ledger)
    execute(ledger_url, "UPDATE runs SET state = 'dropping'")
    execute(ledger_url, "DELETE FROM fetch_units")
    execute(ledger_url, f"ALTER TABLE rows DETACH PARTITION rows_r{run_id} CONCURRENTLY")
    ledger.drop(run_id, "tester")
    assert execute(ledger_url, PARTITIONS) == []
    assert ledger.runs() == []


def test_drop_when_its_detaching_was_cut_off_then_it_is_completed(ledger_url: str, ledger: Ledger) -> None:
    run_id = done_run(ledger)
    reading, read = threading.Event(), threading.Event()

    def hold() -> None:
        own = Ledger(ledger_url)
        with own.transaction() as tx:
            tx.exec_driver_sql("SELECT count(*) FROM rows")
            reading.set()
            read.wait(20)
        own.close()

    thread = threading.Thread(target=hold)
    thread.start()
    reading.wait()
    with pytest.raises(Exception, match="timeout"):
        execute(
            make_impatient(ledger_url), f"ALTER TABLE rows DETACH PARTITION rows_r{run_id} CONCURRENTLY"
        )  # waits for the reader, halfway
    pending = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = %s::regclass"
    assert execute(ledger_url, pending, f"rows_r{run_id}") == [(True,)]
    read.set()
    thread.join()
    another = load(ledger)
    ledger.drop(another.id, "tester")
    ledger.drop(run_id, "tester")
    assert execute(ledger_url, PARTITIONS) == []


def make_impatient(url: str) -> str:
    """The URL with a lock time-out of its own."""
    return url + ("&" if "?" in url else "?") + "options=-clock_timeout%3D300ms"


def test_drop_when_somebody_reads_other_runs_then_he_is_not_stopped(ledger_url: str, ledger: Ledger) -> None:
    run_id, kept = done_run(ledger), load(ledger)
    stop, counts = threading.Event(), []

    def read() -> None:
        own = Ledger(ledger_url)
        while not stop.is_set():
            counts.append(len(own.stored_rows(kept.id, 0, 10)))
        own.close()

    thread = threading.Thread(target=read)
    thread.start()
    ledger.drop(run_id, "tester")
    stop.set()
    thread.join()
    assert set(counts) == {10}


def test_drop_when_the_url_goes_through_a_pooler_then_it_is_refused(ledger_url: str, ledger: Ledger) -> None:
    run = load(ledger)
    with pytest.raises(LedgerError, match="dropping a run needs a direct connection"):
        Ledger(ledger_url).drop(run.id, "tester")
    assert ledger.run(run.id).state is RunState.RUNNING


def test_status_when_work_is_under_way_then_every_stage_has_its_figures(ledger: Ledger) -> None:
    run = load(ledger)
    ledger.admit(10**9, 5)
    for _ in range(3):
        unit = claim_unit(ledger)
        assert unit is not None
        if unit.group == 0:
            ledger.settle_rows(unit.token, outcomes(unit, failed=[1]), requests=10)
    shard = claim_shard(ledger)
    assert shard is not None
    ledger.settle_shard(shard.token, part_of(shard))
    status = ledger.status(run.id)
    fetch, alone, first, second, third = status.stages
    assert [stage.label for stage in status.stages] == ["a+b", "c", "a", "b", "c"]
    assert [stage.stage for stage in status.stages] == ["fetch"] * 2 + ["embed"] * 3
    assert (fetch.done, fetch.failed, fetch.open, fetch.ready_units, fetch.leased_units) == (18, 2, 20, 1, 0)
    assert (alone.open, alone.ready_units, alone.leased_units) == (40, 1, 1)
    assert (first.done, first.failed, first.open, first.ready_units) == (9, 1, 30, 1)
    assert (second.done, second.open, second.ready_units, third.open) == (0, 40, 2, 40)
    assert fetch.rate_1m > 0
    assert fetch.eta_s is not None
    assert (status.failures, status.requests) == ({"provider": 2}, 20)
    assert fetch.oldest_ready_s is not None
    assert (third.eta_s, third.oldest_ready_s) == (None, None)


def test_check_when_the_ledger_is_damaged_then_each_damage_is_named(ledger_url: str, ledger: Ledger) -> None:
    run_id = done_run(ledger)
    assert ledger.check() == []
    damages = {
        f"DELETE FROM rows_r{run_id} WHERE seq = 3": "24 rows are stored",
        f"DELETE FROM fetch_jobs_r{run_id} WHERE seq = 3 AND group_index = 1": "fetch unit 1/0 counts 10 0 0",
        "UPDATE infer_jobs SET sha256 = NULL WHERE model_index = 1 AND shard = 2": "shard 1/2 ended without",
        "UPDATE infer_jobs SET name = 'x' WHERE model_index = 0": "the file x belongs to 3 shards",
        "DELETE FROM parts WHERE model_index = 2 AND part_index = 1": "the parts of model 2 hold 20 of 25 rows",
        "UPDATE fetch_units SET reserved_bytes = 7 WHERE group_index = 0 AND shard = 0": "reserves 7 bytes",
        "CREATE TABLE rows_r987654 (x int)": "the table rows_r987654 belongs to no run",
    }
    for statement in damages:
        execute(ledger_url, statement)
    found = ledger.check()
    for sentence in damages.values():
        assert any(sentence in line for line in found), (sentence, found)
    assert len(found) == len(damages)


def test_rebuild_when_the_ledger_was_lost_then_only_what_is_not_in_the_output_is_done_again(ledger: Ledger) -> None:
    run_id = done_run(ledger)
    records = [record for record in ledger.file_records(run_id) if (record.label, record.index) != ("b", 2)]
    parts = [record for record in records if record.kind == "part" and (record.label, record.index) != ("b", 1)]
    shards = [record for record in records if record.kind == "shard"]
    identity = ledger.run(run_id)
    ledger.drop(run_id, "tester")
    from tests.ledger_parts import new_run

    run = ledger.load_run(new_run(25, fingerprint=identity.fingerprint), stored(25))
    assert ledger.rebuild(run.id, [*shards, *parts]) == 8
    assert ledger.check() == []
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    assert (unit.group, unit.shard) == (0, 2)
    assert claim_unit(ledger) is None
    ledger.settle_rows(unit.token, outcomes(unit))
    shard = claim_shard(ledger)
    assert shard is not None
    assert (shard.model.label, shard.shard) == ("b", 2)
    ledger.settle_shard(shard.token, part_of(shard))
    assert finish(ledger).state is RunState.DONE
    assert ledger.check() == []


def test_rebuild_when_a_label_is_unknown_then_it_is_refused(ledger: Ledger) -> None:
    run = load(ledger)
    record = PartRecord("shard", "z", 0, "z/x", 0, 10, 1, "ab", {"ok": 10})
    with pytest.raises(LedgerError, match="has no model 'z'; it has a, b, c"):
        ledger.rebuild(run.id, [record])


def test_events_when_operators_act_then_who_and_when_are_written_down(ledger: Ledger) -> None:
    run = load(ledger)
    ledger.set_priority(run.id, 4, "ada")
    ledger.pause(run.id, "lunch", "bob")
    ledger.add_event(None, "note", {"x": [1, "\0"]}, "cy")
    found = ledger.events(None)
    assert [(event.kind, event.who, event.run) for event in found] == [
        ("note", "cy", None), ("run_paused", "bob", run.id), ("run_priority", "ada", run.id),
        ("submitted", "tester", run.id),
    ]  # fmt: skip
    assert found[0].detail == {"x": [1, "\ufffd"]}
    assert found[1].detail == {"before": "running", "reason": "lunch"}
    assert ledger.run(run.id).priority == 4
