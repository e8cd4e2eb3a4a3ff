"""The leading dispatcher: one at a time, patient with leases, and judge of whole runs."""

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
    load,
    outcomes,
    worker,
)
from workers.ledger.errors import LedgerError, LedgerUnavailableError
from workers.ledger.records import Expired, RunState
from workers.ledger.repository import Leadership, Ledger


def test_lead_when_somebody_leads_then_nobody_else_does_until_he_stops(ledger_url: str, ledger: Ledger) -> None:
    first = ledger.lead()
    assert first is not None
    other = Ledger(ledger_url, direct=True)
    assert other.lead() is None
    assert ledger.lead() is None
    first.close()
    second = other.lead()
    assert second is not None
    second.close()
    other.close()


def test_lead_when_the_connection_is_cut_then_another_leads_and_the_first_is_told(
    ledger_url: str, ledger: Ledger
) -> None:
    first = ledger.lead()
    assert first is not None
    execute(
        ledger_url,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()",
    )
    for _ in range(2):
        with pytest.raises(LedgerUnavailableError):
            first.sweep(0)
    first.close()
    second = ledger.lead()
    assert second is not None
    assert second.sweep(0) == Expired()
    second.close()


def test_lead_when_the_url_goes_through_a_pooler_then_it_is_refused(ledger_url: str) -> None:
    with pytest.raises(LedgerError, match="RSEMBED_DIRECT_DATABASE_URL"):
        Ledger(ledger_url).lead()


def test_sweep_when_leases_ran_out_then_each_is_a_loss_and_an_event(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    for losses in (1, 2):
        assert claim_unit(ledger, lease_s=0.0) is not None
        assert claim_unit(ledger) is not None if losses == 1 else True
        assert leader.sweep(0).units == 1
        status = ledger.status(run.id)
        assert (status.losses, status.expiries, status.suspects) == (losses, losses, 1)
    assert [event.detail["losses"] for event in ledger.events(run.id) if event.kind == "lease_expired"] == [2, 1]


def test_sweep_when_the_leadership_is_young_then_nothing_expires(ledger: Ledger, leader: Leadership) -> None:
    load(ledger, 10)
    admit_all(ledger)
    assert claim_unit(ledger, lease_s=0.0) is not None
    assert leader.sweep(3600) == Expired()
    assert leader.sweep(0).units == 1


def test_sweep_when_a_finisher_died_then_the_run_is_finished_by_another(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    taken = ledger.take_finishing("00000000-0000-0000-0000-000000000001", 0.0)
    assert taken is not None
    assert ledger.take_finishing("00000000-0000-0000-0000-000000000002", 20) is None
    assert leader.sweep(0).finishing == 1
    assert not ledger.end_run(taken[1], RunState.DONE)
    assert finish(ledger).id == run.id
    assert ledger.check() == []


def test_sweep_when_a_run_is_cancelled_then_it_ends_once_nobody_works_on_it(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.cancel(run.id, "tester")
    assert leader.sweep(0).cancelled == 0
    ledger.release_unit(unit.token)
    assert leader.sweep(0).cancelled == 1
    assert ledger.run(run.id).state is RunState.CANCELLED


def test_audit_when_a_shard_waits_though_its_unit_is_done_then_it_is_readied(
    ledger_url: str, ledger: Ledger, leader: Leadership
) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    assert leader.audit() == 0
    execute(ledger_url, "UPDATE infer_jobs SET state = 'waiting' WHERE model_index < 2")
    assert "shard 0/0 is waiting while its unit is done" in ledger.check()[0]
    assert leader.audit() == 2
    assert ledger.check(run.id) == []


def test_ready_when_work_can_be_claimed_then_each_queue_has_its_count_up_to_the_cap(
    ledger: Ledger, leader: Leadership
) -> None:
    assert leader.ready() == {}
    load(ledger)
    assert leader.ready() == {}
    assert leader.admit(10**9, 3) == 3
    assert leader.ready() == {"io": 3}
    admit_all(leader)
    assert leader.ready(cap=5) == {"io": 5}
    fetch_all(ledger)
    assert leader.ready() == {"gpu.alpha": 4, "gpu.beta": 4, "cpu": 4}
    ledger.drain("cpu", True, "tester")
    assert leader.ready() == {"gpu.alpha": 4, "gpu.beta": 4}
    ledger.drain("cpu", False, "tester")
    embed_all(ledger)
    assert leader.ready() == {"control": 1}


def test_run_when_its_first_rows_all_fail_alike_then_it_is_blocked_probed_and_goes_on(
    ledger: Ledger, leader: Leadership
) -> None:
    run = load(ledger, 400, shard_size=100, models=THREE[:1])
    admit_all(leader)
    for _ in range(3):
        unit = claim_unit(ledger)
        assert unit is not None
        ledger.settle_rows(unit.token, outcomes(unit, failed=range(95)))
    assert leader.block_hopeless() == [run.id]
    blocked = ledger.run(run.id)
    assert blocked.state is RunState.BLOCKED
    assert blocked.reason == "285 of 300 fetches failed as provider: no luck with 0"
    assert (ledger.failures(run.id), claim_unit(ledger)) == ([], None)
    assert leader.unblock_due(3600) == []

    assert leader.unblock_due(0) == [run.id]
    probe = claim_unit(ledger)
    assert probe is not None
    assert (claim_unit(ledger), leader.ready()) == (None, {"io": 1}), "a probe is one unit at a time"
    ledger.settle_rows(probe.token, outcomes(probe, list(range(40)), failed=range(40)))
    assert leader.block_hopeless() == [run.id]
    ledger.release_unit(probe.token)

    assert leader.unblock_due(0) == [run.id]
    probe = claim_unit(ledger)
    assert probe is not None
    ledger.settle_rows(probe.token, outcomes(probe))
    assert leader.block_hopeless() == []
    assert claim_unit(ledger) is not None
    assert claim_unit(ledger) is not None, "it works again, so all units may run"
    assert ledger.check() == []


def test_run_when_a_tenth_of_its_rows_fail_then_it_is_not_blocked(ledger: Ledger, leader: Leadership) -> None:
    load(ledger, 400, shard_size=100)
    admit_all(leader)
    fetch_all(ledger, failed=range(10))
    assert leader.block_hopeless() == []


def test_run_when_it_failed_late_while_blocking_then_those_rows_are_reopened_too(
    ledger: Ledger, leader: Leadership
) -> None:
    run = load(ledger, 400, shard_size=100, models=THREE[:1])
    admit_all(leader)
    units = [unit for _ in range(4) if (unit := claim_unit(ledger)) and unit.group == 0]
    for unit in units[:2]:
        ledger.settle_rows(unit.token, outcomes(unit, failed=range(100)))
    assert leader.block_hopeless() == [run.id]
    late = next(iter(units[2:]), None)
    if late is not None:
        ledger.settle_rows(late.token, outcomes(late, failed=range(100)))
    assert leader.unblock_due(0) == [run.id]
    assert ledger.failures(run.id) == []


def test_run_when_all_who_serve_its_model_are_degraded_then_it_is_blocked_until_one_recovers(
    ledger: Ledger, leader: Leadership
) -> None:
    run = load(ledger, 10, models=THREE[:1])
    one, two = worker(ledger), worker(ledger)
    ledger.degrade(one, "alpha", "weights cannot be had")
    assert leader.block_unserved() == []
    ledger.degrade(two, "alpha", "weights cannot be had")
    assert leader.block_unserved() == [run.id]
    assert ledger.run(run.id).reason == "alpha: weights cannot be had"
    assert leader.unblock_due(0) == []
    ledger.degrade(two, "alpha", None)
    assert leader.unblock_due(3600) == [run.id]
    assert ledger.run(run.id).state is RunState.RUNNING


def test_run_when_another_model_can_go_on_then_it_is_not_blocked(ledger: Ledger, leader: Leadership) -> None:
    load(ledger, 10)
    mine = worker(ledger)
    ledger.degrade(mine, "alpha", "no weights")
    assert leader.block_unserved() == []
    assert leader.served_models() == ["beta", "gamma"]


def test_run_when_nobody_who_fetches_can_reach_the_store_then_it_is_blocked(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger, 10)
    worker(ledger, queues=("gpu.alpha", "gpu.beta", "cpu"))
    fetcher = worker(ledger, kind="io", queues=("io",))
    ledger.degrade(fetcher, "io", "no bucket")
    assert leader.block_unserved() == [run.id]
    assert ledger.run(run.id).reason == "io: no bucket"


def test_run_when_nobody_serves_a_model_then_status_names_it_and_it_goes_on(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger, 10)
    worker(ledger, queues=("io", "gpu.alpha"))
    assert ledger.status(run.id).unserved == ("b", "c")
    assert (leader.block_unserved(), leader.served_models()) == ([], ["alpha"])


def test_run_when_no_worker_at_all_serves_its_models_then_it_waits_and_is_not_blocked(
    ledger: Ledger, leader: Leadership
) -> None:
    load(ledger, 10, models=THREE[:1])
    assert leader.block_unserved() == []
    worker(ledger, kind="io", queues=("io",))
    assert leader.block_unserved() == []


def test_run_when_a_finisher_blocked_it_then_it_is_probed(ledger: Ledger, leader: Leadership) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    taken = ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20)
    assert taken is not None
    assert ledger.block(run.id, "the bucket refuses")
    assert not ledger.end_run(taken[1], RunState.DONE)
    assert leader.unblock_due(0) == [run.id]
    assert finish(ledger).state is RunState.DONE


def test_finishing_when_released_then_it_is_taken_again_later(ledger: Ledger) -> None:
    load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    embed_all(ledger)
    taken = ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20)
    assert taken is not None
    assert ledger.renew_finishing(taken[1], 20)
    assert ledger.release_finishing(taken[1], not_before_s=60, reason="busy")
    assert not ledger.renew_finishing(taken[1], 20)
    assert ledger.take_finishing("00000000-0000-0000-0000-000000000001", 20) is None


def test_progress_when_old_then_it_is_summed_up_and_the_rates_forget_it(
    ledger_url: str, ledger: Ledger, leader: Leadership
) -> None:
    run = load(ledger)
    admit_all(ledger)
    fetch_all(ledger)
    assert ledger.status(run.id).stages[0].rate_60m > 0
    execute(ledger_url, "UPDATE progress SET at = at - interval '3 hours'")
    assert leader.compact() == 2 or leader.compact() == 0
    assert execute(ledger_url, "SELECT sum(settled) FROM progress") == [(80,)]
    assert ledger.status(run.id).stages[0].rate_60m == 0
    assert claim_shard(ledger) is not None
