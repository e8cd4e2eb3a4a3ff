"""A Postgres for tests, and runs, rows and outcomes to put into its ledger."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from sqlalchemy.engine import make_url

from rsembed.pipelines.checkpoint import FailureRecord, PartRecord
from workers.ledger.records import (
    ClaimedShard,
    ClaimedUnit,
    FailureDetail,
    GroupEntry,
    ModelEntry,
    NewRun,
    RowOutcome,
    RunRecord,
    StoredRows,
    WorkerInfo,
)
from workers.ledger.repository import Leadership, Ledger
from workers.servers import EmbeddedPostgres

SHARED = (GroupEntry(0, "key-0", ("B1", "B2"), 100), GroupEntry(1, "key-1", ("B3",), 50))
THREE = (
    ModelEntry(0, "a", "alpha", 0, "gpu.alpha"),
    ModelEntry(1, "b", "beta", 0, "gpu.beta"),
    ModelEntry(2, "c", "gamma", 1, "cpu"),
)
"""Two models with a shared fetch, one without."""

LEASE_S, DEADLINE_S = 20.0, 1800.0


@contextmanager
def fresh_database(folder: Path) -> Iterator[str]:
    """URL of an empty database: on the server that DATABASE_URL names, else on one started in ``folder``."""
    named = os.environ.get("DATABASE_URL")
    if not named:
        server = EmbeddedPostgres(folder, durable=False)
        try:
            yield server.start()
        finally:
            server.remove()
        return
    name = f"rsembed_test_{uuid.uuid4().hex[:12]}"
    execute(named, f"CREATE DATABASE {name}")
    try:
        yield make_url(named).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(named, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Run one statement of a test on a connection of its own."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg2.connect(plain)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def stored(n: int, first: int = 0, batch: int = 100) -> Iterator[StoredRows]:
    """``n`` plain rows."""
    for start in range(first, first + n, batch):
        seq = list(range(start, min(start + batch, first + n)))
        many = len(seq)
        yield StoredRows(
            seq=seq, row=[n - 1 - i for i in seq], start=[19000] * many, end=[19365] * many, kind=[0] * many,
            lon=[i / 1000 for i in seq], lat=[1 / 3] * many, boxes=[None] * many,
            ids=[f"p{i}" for i in seq], carried=[None] * many,
        )  # fmt: skip


def new_run(n: int = 40, **changes: object) -> NewRun:
    """A run of shards of ten rows."""
    fields: dict[str, object] = {
        "fingerprint": uuid.uuid4().hex, "output": "/out", "spec": {"x": 1.5}, "n_rows": n, "shard_size": 10,
        "shards_per_part": 2, "groups": SHARED, "models": THREE, "who": "tester",
    }  # fmt: skip
    return NewRun(**(fields | changes))  # type: ignore[arg-type]  # a builder


def load(ledger: Ledger, n: int = 40, **changes: object) -> RunRecord:
    """A loaded run."""
    return ledger.load_run(new_run(n, **changes), stored(n))


def worker(ledger: Ledger, **changes: object) -> str:
    """A registered worker that serves everything."""
    fields: dict[str, object] = {
        "id": str(uuid.uuid4()), "kind": "gpu", "host": "here", "pid": 7,
        "queues": ("io", "gpu.alpha", "gpu.beta", "cpu", "control"), "models": (), "device": "cpu", "version": "0",
    }  # fmt: skip
    info = WorkerInfo(**(fields | changes))  # type: ignore[arg-type]  # a builder
    ledger.register(info)
    return info.id


def admit_all(ledger: Ledger | Leadership) -> int:
    """Let every unit start."""
    return ledger.admit(10**12, 10**6)


def claim_unit(ledger: Ledger, worker_id: str | None = None, **options: object) -> ClaimedUnit | None:
    """Claim a unit with a long lease."""
    fields: dict[str, object] = {"lease_s": LEASE_S, "deadline_s": DEADLINE_S}
    return ledger.claim_unit(worker_id or str(uuid.uuid4()), **(fields | options))  # type: ignore[arg-type]


def claim_shard(ledger: Ledger, worker_id: str | None = None, **options: object) -> ClaimedShard | None:
    """Claim a shard of any model."""
    fields: dict[str, object] = {
        "models": None, "loaded": (), "patience_s": 30.0, "lease_s": LEASE_S, "deadline_s": DEADLINE_S,
        "device_class": "cpu",
    }  # fmt: skip
    return ledger.claim_shard(worker_id or str(uuid.uuid4()), **(fields | options))  # type: ignore[arg-type]


def to_do(unit: ClaimedUnit) -> list[int]:
    """Slots of the unit that have no outcome."""
    wanted = range(unit.n_rows) if unit.wanted is None else unit.wanted
    return [slot for slot in wanted if slot not in unit.settled]


def outcomes(
    unit: ClaimedUnit, slots: Iterable[int] | None = None, *, failed: Sequence[int] = (), error_class: str = "provider"
) -> list[RowOutcome]:
    """Outcomes of the unit's open slots (or of ``slots``), ``failed`` ones among them."""
    found = []
    for slot in to_do(unit) if slots is None else slots:
        seq, bad = unit.first_seq + slot, slot in failed
        detail = FailureDetail("fetch", error_class, f"no luck with {seq}", "Trace\n  here\nError: x")
        found.append(RowOutcome(slot, seq, seq, f"p{seq}", "failed" if bad else "done", detail if bad else None))
    return found


def fetch_all(ledger: Ledger, **options: object) -> int:
    """Fetch whatever can be claimed; how many units that were."""
    count = 0
    while (unit := claim_unit(ledger)) is not None:
        assert ledger.settle_rows(unit.token, outcomes(unit, **options), requests=unit.n_rows, stored_bytes=500).kept  # type: ignore[arg-type]
        count += 1
    return count


def part_of(shard: ClaimedShard, failed: Sequence[int] = (), error_class: str = "model") -> PartRecord:
    """The file a shard becomes: as from before but for the slots that are wanted."""
    wanted = range(shard.n_rows) if shard.wanted is None else shard.wanted
    old = [] if shard.part is None else [f for f in shard.part.failures if f.seq - shard.first_seq not in wanted]
    fetched = {
        slot: FailureRecord(0, shard.first_seq + slot, f"p{shard.first_seq + slot}", "fetch", *failure)
        for slot, failure in shard.fetch_failures.items()
        if slot in wanted
    }
    inferred = {
        slot: FailureRecord(0, shard.first_seq + slot, f"p{shard.first_seq + slot}", "infer", error_class, "bad")
        for slot in failed
    }
    failures = sorted([*old, *fetched.values(), *inferred.values()], key=lambda f: f.seq)
    return PartRecord(
        "shard", shard.model.label, shard.shard, f"{shard.model.label}/_shards/shard-{shard.shard:06d}.parquet",
        shard.first_seq, shard.n_rows, 1000 + shard.shard, f"{shard.shard:064x}",
        {"ok": shard.n_rows - len(failures), "failed": len(failures)}, tuple(failures), shard.requests,
    )  # fmt: skip


def infer_outcomes(shard: ClaimedShard, failed: Sequence[int], error_class: str = "model") -> list[RowOutcome]:
    """Outcomes of slots that failed at inference."""
    detail = FailureDetail("infer", error_class, "bad", "Trace\n  there\nError: y")
    return [
        RowOutcome(slot, shard.first_seq + slot, 0, f"p{shard.first_seq + slot}", "failed", detail) for slot in failed
    ]


def embed_all(ledger: Ledger, **options: object) -> int:
    """Embed whatever can be claimed; how many shards that were."""
    count = 0
    while (shard := claim_shard(ledger, **options)) is not None:
        assert ledger.settle_shard(shard.token, part_of(shard))
        count += 1
    return count


def finish(ledger: Ledger) -> RunRecord:
    """Write the parts of the next run whose shards ended, and end it."""
    taken = ledger.take_finishing(str(uuid.uuid4()), LEASE_S)
    assert taken is not None
    run, token = taken
    per_part = run.shard_size * run.shards_per_part
    for model in run.models:
        for part in range(-(-run.n_rows // per_part)):
            first = part * per_part
            rows = min(per_part, run.n_rows - first)
            record = PartRecord("part", model.label, part, f"{model.label}/part-{part}", first, rows, 1, "ab", {})
            ledger.commit_file(run.id, record)
    failed = any(stage.failed for stage in ledger.status(run.id).stages)
    states = ledger.run(run.id).state
    end = type(states).DONE_WITH_FAILURES if failed else type(states).DONE
    assert ledger.end_run(token, end)
    return ledger.run(run.id)
