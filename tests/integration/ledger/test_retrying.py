"""Retries touch the rows that were asked for, and no others."""

from __future__ import annotations

import pytest

from tests.ledger_parts import (
    THREE,
    admit_all,
    claim_shard,
    claim_unit,
    embed_all,
    execute,
    fetch_all,
    finish,
    infer_outcomes,
    load,
    outcomes,
    part_of,
    to_do,
)
from workers.ledger.errors import RunStateError
from workers.ledger.records import RunRecord, RunState
from workers.ledger.repository import Ledger

SNAPSHOT = "SELECT seq, group_index, state, error_class, xmin::text FROM fetch_jobs ORDER BY group_index, seq"


def failed_run(ledger: Ledger) -> RunRecord:
    """Done with failures: a fetch of class transient and one of provider, and two rows that model b could not do."""
    run = load(ledger)
    admit_all(ledger)
    while (unit := claim_unit(ledger)) is not None:
        if (unit.group, unit.shard) == (0, 1):
            ledger.settle_rows(unit.token, outcomes(unit, [3], failed=[3], error_class="transient"))
            ledger.settle_rows(unit.token, outcomes(unit, [5], failed=[5], error_class="provider"))
        ledger.settle_rows(unit.token, outcomes(unit))
    while (shard := claim_shard(ledger)) is not None:
        failed = [0, 9] if (shard.model.label, shard.shard) == ("b", 2) else []
        ledger.settle_shard(shard.token, part_of(shard, failed), failures=infer_outcomes(shard, failed))
    done = finish(ledger)
    assert done.state is RunState.DONE_WITH_FAILURES
    assert ledger.check() == []
    return run


def test_retry_when_a_class_is_given_then_only_its_rows_are_open(ledger_url: str, ledger: Ledger) -> None:
    run = failed_run(ledger)
    before = execute(ledger_url, SNAPSHOT)
    assert ledger.retry(run.id, ["transient"], "tester") == 1
    after = execute(ledger_url, SNAPSHOT)
    assert [row for row in before if row not in after] == [row for row in before if row[3] == "transient"]
    found = ledger.run(run.id)
    assert (found.state, found.generation, found.ended_at) == (RunState.RUNNING, 1, None)
    assert admit_all(ledger) == 1
    unit = claim_unit(ledger)
    assert unit is not None
    assert (unit.group, unit.shard, to_do(unit), unit.generation) == (0, 1, [3], 1)
    ledger.settle_rows(unit.token, outcomes(unit), requests=1)
    assert claim_unit(ledger) is None
    again = {s.model.label: s for _ in range(3) if (s := claim_shard(ledger))}
    assert set(again) == {"a", "b"}
    for shard in again.values():
        assert (shard.shard, shard.wanted) == (1, (3,))
        assert shard.part is not None
        assert [(f.seq, f.error_class) for f in shard.part.failures] == [(13, "transient"), (15, "provider")]
        assert ledger.settle_shard(shard.token, part_of(shard))
    assert ledger.status(run.id).failures == {"model": 2, "provider": 1}
    assert finish(ledger).state is RunState.DONE_WITH_FAILURES
    assert ledger.check() == []


def test_retry_when_rows_failed_at_inference_then_they_are_fetched_for_that_model_alone(ledger: Ledger) -> None:
    run = failed_run(ledger)
    assert ledger.retry(run.id, ["model"], "tester") == 2
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    assert (unit.group, unit.shard, to_do(unit)) == (0, 2, [0, 9])
    ledger.settle_rows(unit.token, outcomes(unit))
    (shard,) = [s for _ in range(3) if (s := claim_shard(ledger))]
    assert (shard.model.label, shard.wanted) == ("b", (0, 9))
    ledger.settle_shard(shard.token, part_of(shard))
    assert ledger.status(run.id).failures == {"provider": 1, "transient": 1}
    assert ledger.check() == []


def test_retry_when_no_class_is_given_then_everything_that_failed_is_open_and_the_run_can_become_done(
    ledger: Ledger,
) -> None:
    run = failed_run(ledger)
    assert ledger.retry(run.id, None, "tester") == 4
    status = ledger.status(run.id)
    assert {(stage.label, stage.open, stage.failed) for stage in status.stages} == {
        ("a+b", 4, 0), ("c", 0, 0), ("a", 2, 0), ("b", 4, 0),
    }  # fmt: skip
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    assert finish(ledger).state is RunState.DONE
    assert ledger.check() == []


def test_retry_when_nothing_failed_so_then_nothing_changes(ledger: Ledger) -> None:
    run = failed_run(ledger)
    assert ledger.retry(run.id, ["auth"], "tester") == 0
    assert ledger.run(run.id).state is RunState.DONE_WITH_FAILURES
    assert ledger.run(run.id).generation == 0


def test_retry_when_the_unit_is_leased_then_the_holder_keeps_it_and_finds_rows_left(ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, [0, 1], failed=[0]))
    assert ledger.retry(run.id, None, "tester") == 1
    answer = ledger.settle_rows(unit.token, outcomes(unit, range(2, 10)))
    assert (answer.kept, answer.open_rows) == (True, 1)
    assert ledger.release_unit(unit.token)
    again = claim_unit(ledger)
    assert again is not None
    assert to_do(again) == [0]
    assert ledger.check() == []


def test_retry_when_a_shard_is_in_hand_then_it_is_taken_away_and_done_once_the_row_is_there(ledger: Ledger) -> None:
    run = load(ledger, 10, models=THREE[:1])
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, failed=[4]))
    shard = claim_shard(ledger)
    assert shard is not None
    ledger.retry(run.id, None, "tester")
    assert not ledger.settle_shard(shard.token, part_of(shard))
    again = claim_unit(ledger)
    assert again is not None
    assert to_do(again) == [4], "it stays admitted: its inputs are still needed"
    ledger.settle_rows(again.token, outcomes(again))
    whole = claim_shard(ledger)
    assert whole is not None
    assert (whole.wanted, whole.fetch_failures) == (None, {})
    assert ledger.settle_shard(whole.token, part_of(whole))
    assert ledger.check() == []


def test_retry_when_asked_again_before_it_is_done_then_the_rows_add_up(ledger: Ledger) -> None:
    run = failed_run(ledger)
    ledger.retry(run.id, ["transient"], "tester")
    ledger.retry(run.id, ["provider", "model"], "tester")
    admit_all(ledger)
    units = [unit for _ in range(4) if (unit := claim_unit(ledger))]
    assert [(unit.shard, unit.wanted) for unit in units] == [(1, (3, 5)), (2, (0, 9))]
    for unit in units:
        ledger.settle_rows(unit.token, outcomes(unit))
    embed_all(ledger)
    assert finish(ledger).state is RunState.DONE
    assert ledger.check() == []


def test_retry_when_the_run_is_being_finished_then_it_is_refused(ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger, failed=[1])
    embed_all(ledger)
    taken = ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20)
    assert taken is not None
    with pytest.raises(RunStateError, match="is finishing; retry it when"):
        ledger.retry(run.id, None, "tester")


def test_losses_when_a_unit_is_retried_then_it_is_no_suspect_any_more(ledger: Ledger) -> None:
    run = load(ledger, 10, models=THREE[:1])
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.release_unit(unit.token, losses_refund=False)
    fetch_all(ledger, failed=[1])
    embed_all(ledger)
    ledger.retry(run.id, None, "tester")
    admit_all(ledger)
    again = claim_unit(ledger, alone=False)
    assert again is not None
    assert again.losses == 0
