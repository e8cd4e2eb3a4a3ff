"""Shards: the right one first, settled once, waiting again when their inputs are gone."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from rsembed.pipelines.checkpoint import PartRecord
from tests.ledger_parts import (
    SHARED,
    THREE,
    admit_all,
    claim_shard,
    claim_unit,
    embed_all,
    execute,
    fetch_all,
    infer_outcomes,
    load,
    outcomes,
    part_of,
    to_do,
    worker,
)
from workers.ledger.records import ClaimedShard, ModelEntry, RunRecord, ShardState
from workers.ledger.repository import Leadership, Ledger


def fetched(ledger: Ledger, n: int = 40, **changes: object) -> RunRecord:
    """A run all of whose rows are fetched."""
    run = load(ledger, n, **changes)
    admit_all(ledger)
    fetch_all(ledger)
    return run


def claimed(ledger: Ledger, **options: object) -> ClaimedShard:
    shard = claim_shard(ledger, **options)
    assert shard is not None
    return shard


def test_claim_when_a_shard_is_ready_then_it_tells_all_that_is_known_of_it(ledger: Ledger) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, failed=[4]), requests=12)
    shard = claimed(ledger)
    assert (shard.run, shard.model, shard.shard, shard.first_seq, shard.n_rows) == (run.id, THREE[0], 0, 0, 10)
    assert shard.fetch_failures == {4: ("provider", "no luck with 4")}
    assert (shard.requests, shard.part, shard.etag, shard.wanted) == (12, None, None, None)
    assert claimed(ledger).requests == 0, "the second model of the group did not cost them again"


def test_claim_when_a_model_is_loaded_then_its_shards_come_first(ledger: Ledger) -> None:
    fetched(ledger, 20)
    assert [claimed(ledger, loaded=["b"]).model.label for _ in range(2)] == ["b", "b"]
    assert [claimed(ledger, loaded=["gamma"]).model.label for _ in range(2)] == ["c", "c"]
    assert claimed(ledger, loaded=["b"]).model.label == "a"


def test_claim_when_another_model_waited_too_long_then_it_comes_first(ledger_url: str, ledger: Ledger) -> None:
    fetched(ledger)
    execute(ledger_url, "UPDATE infer_jobs SET ready_at = ready_at - interval '60 seconds' WHERE model_index = 2")
    assert claimed(ledger, loaded=["a"], patience_s=90).model.label == "a"
    assert claimed(ledger, loaded=["a"]).model.label == "c"
    assert claimed(ledger, loaded=["a"]).model.label == "a", "somebody has just claimed of it"


def test_claim_when_models_or_queues_are_given_then_nothing_else_comes(ledger: Ledger) -> None:
    fetched(ledger, 10)
    assert claim_shard(ledger, models=["delta"]) is None
    assert claim_shard(ledger, models=[]) is None
    assert claimed(ledger, models=["beta"]).model.label == "b"
    assert claim_shard(ledger, models=["beta"]) is None
    assert claimed(ledger, queues=["cpu"]).model.label == "c"


def test_claim_when_the_device_is_another_then_nothing_is_given(ledger: Ledger) -> None:
    fetched(ledger, 10, models=(ModelEntry(0, "a", "alpha", 0, "gpu.alpha", "cuda"),))
    assert claim_shard(ledger, device_class="cpu") is None
    assert claimed(ledger, device_class="cuda").model.device_class == "cuda"


def test_claim_when_the_worker_is_degraded_for_a_model_then_it_gets_the_others(ledger: Ledger) -> None:
    fetched(ledger, 10)
    mine = worker(ledger)
    ledger.degrade(mine, "alpha", "no weights")
    ledger.degrade(mine, "gamma", "no weights")
    assert [shard.model.label for _ in range(3) if (shard := claim_shard(ledger, mine))] == ["b"]
    ledger.degrade(mine, "gamma", None)
    assert claimed(ledger, worker_id=mine).model.label == "c"


def test_claim_when_many_threads_claim_then_no_shard_is_given_twice(ledger_url: str, ledger: Ledger) -> None:
    fetched(ledger, 200)

    def drain() -> list[tuple[str, int]]:
        own, found = Ledger(ledger_url), []
        while (shard := claim_shard(own)) is not None:
            found.append((shard.model.label, shard.shard))
        own.close()
        return found

    with ThreadPoolExecutor(6) as pool:
        found = Counter(shard for future in [pool.submit(drain) for _ in range(6)] for shard in future.result())
    assert len(found) == 60
    assert set(found.values()) == {1}


def test_settle_when_the_file_stands_then_its_record_is_kept_whole(ledger: Ledger) -> None:
    run = fetched(ledger, 10, models=THREE[:1], groups=SHARED[:1])
    shard = claimed(ledger)
    record = PartRecord(
        "shard", "a", 0, "a/_shards/x.parquet", 0, 10, 99, "ef" * 32, {"ok": 7, "no_data": 2, "collection_gap": 1},
        (), 3, 4,
    )  # fmt: skip
    assert ledger.settle_shard(shard.token, record, etag='"e"')
    assert ledger.file_records(run.id) == (record,)
    (stage,) = [stage for stage in ledger.status(run.id).stages if stage.stage == "embed"]
    assert (stage.done, stage.no_data, stage.failed, stage.open) == (7, 3, 0, 0)


def test_settle_when_repeated_with_the_same_token_then_it_is_a_success_and_changes_nothing(ledger: Ledger) -> None:
    run = fetched(ledger, 10)
    shard = claimed(ledger)
    assert ledger.settle_shard(shard.token, part_of(shard))
    before = ledger.file_records(run.id)
    assert ledger.settle_shard(shard.token, part_of(shard, failed=[1]))
    assert ledger.file_records(run.id) == before


def test_settle_when_fenced_then_it_is_refused(ledger: Ledger, leader: Leadership) -> None:
    run = fetched(ledger, 10)
    late = claimed(ledger, lease_s=0.0)
    assert leader.sweep(0).shards == 1
    assert not ledger.settle_shard(late.token, part_of(late))
    again = claimed(ledger, models=["alpha"])
    assert (again.shard, again.losses) == (late.shard, 1)
    assert not ledger.settle_shard(late.token, part_of(late))
    assert ledger.file_records(run.id) == ()
    assert ledger.settle_shard(again.token, part_of(again))


def test_settle_when_rows_failed_at_inference_then_they_are_described_once(ledger: Ledger) -> None:
    run = fetched(ledger, 10)
    shard = claimed(ledger)
    failed = [2, 5]
    state = ShardState.DONE
    assert ledger.settle_shard(shard.token, part_of(shard, failed), failures=infer_outcomes(shard, failed), state=state)
    assert [(row.seq, row.label, row.failure.stage) for row in ledger.failures(run.id)] == [
        (2, "a", "infer"),
        (5, "a", "infer"),
    ]
    assert ledger.check() == []


def test_reserved_bytes_when_two_models_end_at_once_then_they_are_freed(ledger_url: str, ledger: Ledger) -> None:
    fetched(ledger, 100)
    shards: dict[str, list[ClaimedShard]] = {"a": [], "b": []}
    while (shard := claim_shard(ledger, queues=["gpu.alpha", "gpu.beta"])) is not None:
        shards[shard.model.label].append(shard)
    start = threading.Barrier(2)

    def settle(label: str) -> None:
        own = Ledger(ledger_url)
        start.wait()
        for shard in sorted(shards[label], key=lambda shard: shard.shard):
            assert own.settle_shard(shard.token, part_of(shard))
        own.close()

    reserved = "SELECT sum(reserved_bytes) FROM fetch_units WHERE group_index = 0"
    assert execute(ledger_url, reserved) == [(5000,)]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(settle, label) for label in shards]:
            future.result()
    assert execute(ledger_url, reserved) == [(0,)]
    assert ledger.check() == []


def test_release_when_given_back_then_another_gets_it_and_nothing_is_counted(ledger: Ledger) -> None:
    fetched(ledger, 10)
    shard = claimed(ledger)
    assert ledger.release_shard(shard.token)
    assert not ledger.release_shard(shard.token)
    again = claimed(ledger, models=["alpha"])
    assert (again.shard, again.losses) == (shard.shard, 0)
    assert again.token != shard.token


def test_inputs_when_lost_then_their_rows_are_fetched_again_and_the_shard_waits(ledger: Ledger) -> None:
    run = fetched(ledger, 10)
    shard = claimed(ledger)
    assert ledger.reopen_rows(run.id, 0, 0, [2, 7], token=shard.token)
    assert not ledger.release_shard(shard.token), "it is not the caller's any more"
    assert [s.model.label for _ in range(3) if (s := claim_shard(ledger))] == ["c"], "a and b wait"
    unit = claim_unit(ledger)
    assert unit is not None
    assert (unit.group, unit.wanted, to_do(unit), unit.losses) == (0, (2, 7), [2, 7], 0)
    ledger.settle_rows(unit.token, outcomes(unit))
    again = {s.model.label: s for _ in range(2) if (s := claim_shard(ledger))}
    assert set(again) == {"a", "b"}
    assert again["a"].wanted is None
    for each in again.values():
        assert ledger.settle_shard(each.token, part_of(each))
    assert ledger.check() == []


def test_inputs_when_lost_while_another_model_reads_them_then_it_may_end_and_waits_if_it_cannot(
    ledger: Ledger,
) -> None:
    run = fetched(ledger, 10)
    first, second = claimed(ledger, models=["alpha"]), claimed(ledger, models=["beta"])
    ledger.reopen_rows(run.id, 0, 0, [2], token=first.token)
    assert ledger.release_shard(second.token)
    assert claim_shard(ledger, models=["alpha", "beta"]) is None
    fetch_all(ledger)
    assert embed_all(ledger, models=["alpha", "beta"]) == 2
    assert ledger.check() == []


def test_inputs_when_reported_lost_twice_then_the_second_changes_nothing(ledger: Ledger) -> None:
    run = fetched(ledger, 10)
    assert ledger.reopen_rows(run.id, 0, 0, [2])
    unit = claim_unit(ledger)
    assert unit is not None
    assert ledger.reopen_rows(run.id, 0, 0, [2])
    assert ledger.settle_rows(unit.token, outcomes(unit)).open_rows == 0
    assert not ledger.reopen_rows(run.id, 0, 99, [2]), "no such unit"
    assert ledger.check() == []


def test_inputs_when_no_shard_needs_them_then_they_are_not_in_use(ledger: Ledger) -> None:
    run = fetched(ledger, 20)
    assert ledger.inputs_in_use() == {("key-0", 0), ("key-0", 1), ("key-1", 0), ("key-1", 1)}
    assert ledger.inputs_in_use(["key-1"]) == {("key-1", 0), ("key-1", 1)}
    assert embed_all(ledger, models=["alpha", "gamma"]) == 4
    assert ledger.inputs_in_use() == {("key-0", 0), ("key-0", 1)}
    ledger.cancel(run.id, "tester")
    assert ledger.inputs_in_use() == frozenset()


def test_file_when_lost_then_its_shard_is_embedded_again_from_the_start(ledger: Ledger) -> None:
    run = fetched(ledger, 10)
    assert embed_all(ledger) == 3
    assert ledger.reopen_shard(run.id, "b", 0)
    assert not ledger.reopen_shard(run.id, "b", 0)
    again = claimed(ledger)
    assert (again.model.label, again.wanted, again.part, again.etag) == ("b", None, None, None)
    assert ledger.settle_shard(again.token, part_of(again))
    assert ledger.check() == []
