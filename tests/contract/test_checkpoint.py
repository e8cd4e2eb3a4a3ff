"""What holds for every CheckpointManager: what was committed is there for the next process, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rsembed.pipelines.checkpoint import CheckpointManager, FailureRecord, FileCheckpoint, PartRecord

Open = Callable[[], CheckpointManager]


@pytest.fixture(params=["file", "ledger"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same run's checkpoint, as each new process does."""
    if request.param == "file":
        yield lambda: FileCheckpoint(tmp_path / "state" / "journal.jsonl")
    else:
        yield from ledger_checkpoints(request.getfixturevalue("database_url"))


def ledger_checkpoints(url: str) -> Iterator[Open]:
    """Checkpoints of one run of three shards."""
    from tests.ledger_parts import load
    from workers.ledger.checkpoint import LedgerCheckpoint
    from workers.ledger.db import upgrade
    from workers.ledger.records import ModelEntry
    from workers.ledger.repository import Ledger

    upgrade(url)
    ledger = Ledger(url, direct=True)
    run = load(ledger, 768, shard_size=256, models=(ModelEntry(0, "null", "null", 0, "gpu.null"),))
    yield lambda: LedgerCheckpoint(ledger, run.id)
    ledger.drop(run.id, "tester")
    ledger.close()


def record(index: int = 0, **changes: object) -> PartRecord:
    fields: dict[str, object] = {
        "kind": "shard", "label": "null", "index": index, "name": f"null/_shards/shard-{index:06d}.parquet",
        "first_seq": 256 * index, "rows": 256, "bytes": 1000 + index, "sha256": "ab" * 32,
        "counts": {"ok": 255, "failed": 1},
        "failures": (FailureRecord(3, 256 * index + 4, "p é\n\u2028", "fetch", "transient", "lost\n'connection' \\"),),
        "requests": 17, "batch_size": 4,
    }  # fmt: skip
    return PartRecord(**(fields | changes))  # type: ignore[arg-type]


def test_checkpoint_when_new_then_it_is_empty(opened: Open) -> None:
    checkpoint = opened()
    assert checkpoint.records() == ()
    checkpoint.close()


def test_checkpoint_when_opened_again_then_every_field_of_every_record_is_there_in_order(opened: Open) -> None:
    records = [record(2), record(0, failures=(), batch_size=None), record(1), record(0, kind="part", counts={})]
    first = opened()
    for each in records:
        first.commit(each)
    assert list(first.records()) == records
    first.close()
    second = opened()
    assert list(second.records()) == records
    second.close()


def test_checkpoint_when_a_file_is_committed_again_then_the_later_record_is_the_last(opened: Open) -> None:
    first = opened()
    first.commit(record(0, bytes=1))
    first.commit(record(1))
    first.close()
    second = opened()
    second.commit(record(0, bytes=2))
    found = second.records()
    assert found[-1] == record(0, bytes=2)
    assert {each.index for each in found} == {0, 1}
    second.close()


def test_checkpoint_when_the_process_dies_without_closing_then_commits_are_kept(opened: Open) -> None:
    first = opened()
    first.commit(record(0))
    second = opened()
    assert list(second.records()) == [record(0)]
    second.close()
    first.close()
