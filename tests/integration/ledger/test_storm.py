"""Many workers, leases that run out under them, retries, lost inputs and pauses at the same time."""

from __future__ import annotations

import random
import threading
import time

from tests.ledger_parts import (
    admit_all,
    claim_shard,
    claim_unit,
    embed_all,
    fetch_all,
    finish,
    infer_outcomes,
    load,
    outcomes,
    part_of,
    to_do,
    worker,
)
from workers.ledger.records import RunState
from workers.ledger.repository import Leadership, Ledger

WORKERS, STORM_S = 6, 4.0


class Storm:
    """Threads that do everything to two runs at once; ``errors`` must stay empty."""

    def __init__(self, url: str, runs: list[int]) -> None:
        self.url, self.runs = url, runs
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.settled = 0

    def fetch(self, ledger: Ledger, rng: random.Random) -> None:
        unit = claim_unit(ledger, worker(ledger), lease_s=rng.choice([0.0, 0.02, 3.0]))
        if unit is None:
            return
        slots = to_do(unit)
        rng.shuffle(slots)
        for slot in slots:
            if rng.random() < 0.03:
                ledger.release_unit(unit.token, losses_refund=rng.random() < 0.5)
                return
            failed = [slot] if rng.random() < 0.1 else []
            if not ledger.settle_rows(unit.token, outcomes(unit, [slot], failed=failed), requests=1).kept:
                return
            self.settled += 1
        ledger.release_unit(unit.token)

    def embed(self, ledger: Ledger, rng: random.Random) -> None:
        mine = worker(ledger)
        shard = claim_shard(ledger, mine, lease_s=rng.choice([0.0, 0.02, 3.0]))
        if shard is None:
            return
        ledger.heartbeat(mine, [shard.token], lease_s=0.05)
        if rng.random() < 0.2:
            ledger.reopen_rows(shard.run, shard.model.group, shard.shard, [rng.randrange(10)], token=shard.token)
            return
        if rng.random() < 0.2:
            ledger.release_shard(shard.token)
            return
        wanted = range(shard.n_rows) if shard.wanted is None else shard.wanted
        able = [slot for slot in wanted if slot not in shard.fetch_failures]
        failed = able[:1] if rng.random() < 0.2 else []
        ledger.settle_shard(shard.token, part_of(shard, failed), failures=infer_outcomes(shard, failed))

    def operate(self, ledger: Ledger, rng: random.Random) -> None:
        run = rng.choice(self.runs)
        if rng.random() < 0.5:
            ledger.retry(run, None, "tester")
        else:
            ledger.pause(run, None, "tester")
            ledger.resume(run, "tester")
        time.sleep(0.05)

    def lead(self, leader: Leadership) -> None:
        leader.sweep(0)
        leader.admit(3000, 5)
        leader.audit()
        time.sleep(0.02)

    def run(self, seed: int) -> None:
        rng, ledger = random.Random(seed), Ledger(self.url)
        act = self.operate if seed == 0 else self.fetch if seed % 2 else self.embed
        while not self.stop.is_set():
            try:
                act(ledger, rng)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test has to show it
                self.errors.append(exc)
                break
        ledger.close()


def test_ledger_when_everything_happens_at_once_then_no_row_is_lost_or_doubled(
    ledger_url: str, ledger: Ledger, leader: Leadership
) -> None:
    runs = [load(ledger, 60).id, load(ledger, 60).id]
    storm = Storm(ledger_url, runs)
    threads = [threading.Thread(target=storm.run, args=(seed,)) for seed in range(WORKERS + 1)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + STORM_S
    while time.monotonic() < end:
        storm.lead(leader)
    storm.stop.set()
    for thread in threads:
        thread.join()
    assert storm.errors == []
    assert storm.settled > 50
    assert ledger.check() == []

    time.sleep(0.1)
    for _ in range(3):  # rows in hand of those who left, rows to be retried, and what became of them
        for run in runs:
            ledger.retry(run, None, "tester")
        end = time.monotonic() + 20
        while ledger.status(runs[0]).stages[0].leased_units and time.monotonic() < end:
            leader.sweep(0)
        admit_all(leader)
        while fetch_all(ledger) + embed_all(ledger):
            leader.sweep(0)
    execute_all(ledger, leader)
    assert {finish(ledger).state, finish(ledger).state} == {RunState.DONE}
    assert ledger.check() == []


def execute_all(ledger: Ledger, leader: Leadership) -> None:
    """Whatever long leases of the storm are left: wait for them, then do their work."""
    end = time.monotonic() + 30
    while any(stage.open for run in ledger.runs() for stage in ledger.status(run.id).stages):
        assert time.monotonic() < end
        leader.sweep(0)
        admit_all(leader)
        fetch_all(ledger)
        embed_all(ledger)
        time.sleep(0.05)
