from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsembed.core.errors import ExportError
from rsembed.pipelines.checkpoint import FailureRecord, PartRecord
from rsembed.pipelines.run_state import LostShardError, RunShape, RunState
from rsembed.writers.atomic import sha256_file
from rsembed.writers.store import FolderStore

SHAPE = RunShape(n_rows=23, shard_size=5, shards_per_part=2)


class Memory:
    """A CheckpointManager that forgets when it is gone."""

    def __init__(self, *records: PartRecord) -> None:
        self.kept = list(records)

    def records(self) -> tuple[PartRecord, ...]:
        return tuple(self.kept)

    def commit(self, record: PartRecord) -> None:
        self.kept.append(record)

    def close(self) -> None:
        pass


def write(root: Path, kind: str, index: int, *, failed: Sequence[int] = ()) -> PartRecord:
    """A file of the rows' ``seq``, and its record; ``failed``: seq of rows that failed."""
    if kind == "shard":
        first, rows = index * 5, SHAPE.shard_rows(index)
    else:
        first, rows = index * 10, sum(map(SHAPE.shard_rows, SHAPE.part_shards(index)))
    path = root / f"{kind}-{index}.parquet"
    pq.write_table(pa.table({"seq": list(range(first, first + rows))}), path)
    failures = tuple(FailureRecord(seq, seq, f"p{seq}", "fetch", "provider", "x") for seq in failed)
    return PartRecord(
        kind,
        "m",
        index,
        path.name,
        first,
        rows,
        path.stat().st_size,
        sha256_file(path),
        {"ok": rows},
        failures,  # type: ignore[arg-type]
    )


OPENED: list[RunState] = []


@pytest.fixture(autouse=True)
def close_states() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def state(root: Path, *records: PartRecord) -> RunState:
    OPENED.append(RunState(FolderStore(root), SHAPE, Memory(*records)))
    return OPENED[-1]


def test_shape_when_rows_do_not_fill_the_last_shard_and_part_then_they_are_short() -> None:
    assert (SHAPE.n_shards, SHAPE.n_parts) == (5, 3)
    assert [SHAPE.shard_rows(i) for i in range(5)] == [5, 5, 5, 5, 3]
    assert [list(SHAPE.part_shards(i)) for i in range(3)] == [[0, 1], [2, 3], [4]]


def test_state_when_new_then_every_slot_is_open(tmp_path: Path) -> None:
    found = state(tmp_path)
    assert found.open_slots("m", 0) == (0, 1, 2, 3, 4)
    assert found.open_slots("m", 4) == (0, 1, 2)
    assert list(found.parts_to_compact("m")) == [0, 1, 2]


def test_state_when_rows_of_a_shard_failed_then_only_they_are_open(tmp_path: Path) -> None:
    found = state(tmp_path, write(tmp_path, "shard", 1, failed=[8, 5]))
    assert found.open_slots("m", 1) == (0, 3)
    assert found.open_slots("other", 1) == (0, 1, 2, 3, 4)
    found.commit(write(tmp_path, "shard", 1))
    assert found.open_slots("m", 1) == ()


@pytest.mark.parametrize("harm", ["deleted", "cut"])
def test_state_when_a_shard_file_is_lost_then_its_rows_are_done_again(tmp_path: Path, harm: str) -> None:
    records = [write(tmp_path, "shard", i) for i in range(2)]
    path = tmp_path / records[0].name
    path.unlink() if harm == "deleted" else path.write_bytes(path.read_bytes()[:-1])
    found = state(tmp_path, *records)
    assert len(found.open_slots("m", 0)) == 5
    assert found.open_slots("m", 1) == ()


def test_state_when_compacted_then_rows_are_read_from_the_part(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(5)]
    parts = [write(tmp_path, "part", i) for i in range(3)]
    for each in shards:
        (tmp_path / each.name).unlink()
    found = state(tmp_path, *shards, *parts)
    assert found.shard_rows("m", 3)["seq"].to_pylist() == [15, 16, 17, 18, 19]
    assert found.shard_rows("m", 4)["seq"].to_pylist() == [20, 21, 22]
    assert list(found.parts_to_compact("m")) == []
    assert all(found.open_slots("m", i) == () for i in range(5))


def test_state_when_a_part_is_lost_then_its_shards_alone_are_done_again(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(5)]
    parts = [write(tmp_path, "part", i) for i in range(3)]
    for gone in (*shards, parts[1]):
        (tmp_path / gone.name).unlink()
    found = state(tmp_path, *shards, *parts)
    assert [bool(found.open_slots("m", i)) for i in range(5)] == [False, False, True, True, False]
    assert list(found.parts_to_compact("m")) == [1]


def test_state_when_a_shard_is_committed_after_its_part_then_that_part_is_compacted_again(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i, failed=[7] if i == 1 else []) for i in range(5)]
    parts = [write(tmp_path, "part", i) for i in range(3)]
    found = state(tmp_path, *shards, *parts)
    assert found.open_slots("m", 1) == (2,)
    found.commit(write(tmp_path, "shard", 1))
    assert list(found.parts_to_compact("m")) == [0]
    assert found.shard_rows("m", 0)["seq"].to_pylist() == [0, 1, 2, 3, 4]


def test_state_when_a_part_is_lost_but_a_newer_shard_stands_then_that_shard_is_kept(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(2)]
    part = write(tmp_path, "part", 0)
    for gone in (*shards, part):
        (tmp_path / gone.name).unlink()
    newer = write(tmp_path, "shard", 1)
    found = state(tmp_path, *shards, part, newer)
    assert len(found.open_slots("m", 0)) == 5
    assert found.open_slots("m", 1) == ()


def test_state_when_rows_are_nowhere_then_it_says_so(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(2)]
    found = state(tmp_path, *shards, write(tmp_path, "part", 0))
    with pytest.raises(ExportError, match="rows are nowhere"):
        found.shard_rows("m", 4)


def test_state_when_a_crash_left_the_part_before_then_its_newer_shard_is_pending_again(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(2)]
    old = write(tmp_path, "part", 0)
    (tmp_path / shards[0].name).unlink()
    newer = write(tmp_path, "shard", 1)
    journalled_not_renamed = replace(old, sha256="0" * 64)
    found = state(tmp_path, *shards, old, newer, journalled_not_renamed)
    assert list(found.parts_to_compact("m"))[:1] == [0]
    assert found.shard_rows("m", 0)["seq"].to_pylist() == [0, 1, 2, 3, 4]


def test_state_when_a_crash_left_a_part_that_is_not_journalled_yet_then_its_rows_stand_and_newer_shards_are_pending(
    tmp_path: Path,
) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(2)]
    old = write(tmp_path, "part", 0)
    newer = write(tmp_path, "shard", 1)
    (tmp_path / shards[0].name).unlink()
    rewritten = pa.table({"seq": list(range(10)), "more": ["x" * 50] * 10})
    pq.write_table(rewritten, tmp_path / old.name)
    found = state(tmp_path, *shards, old, newer)
    assert found.open_slots("m", 0) == ()
    assert list(found.parts_to_compact("m"))[:1] == [0]
    assert found.shard_rows("m", 0)["seq"].to_pylist() == [0, 1, 2, 3, 4]


def test_state_when_a_part_is_replaced_by_other_rows_then_it_is_lost(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(2)]
    part = write(tmp_path, "part", 0)
    for each in shards:
        (tmp_path / each.name).unlink()
    pq.write_table(pa.table({"seq": list(range(1, 11)), "more": ["x" * 50] * 10}), tmp_path / part.name)
    assert len(state(tmp_path, *shards, part).open_slots("m", 0)) == 5


def test_state_when_a_shard_file_holds_other_bytes_of_the_same_size_then_it_is_said_which(tmp_path: Path) -> None:
    record = write(tmp_path, "shard", 1)
    path = tmp_path / record.name
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    found = state(tmp_path, record)
    with pytest.raises(LostShardError, match="not the file that was written") as caught:
        found.shard_rows("m", 1)
    assert (caught.value.label, caught.value.index) == ("m", 1)


def test_state_when_a_part_has_several_row_groups_then_each_shard_gets_its_rows(tmp_path: Path) -> None:
    shards = [write(tmp_path, "shard", i) for i in range(5)]
    parts = [write(tmp_path, "part", i) for i in range(3)]
    path = tmp_path / parts[1].name
    pq.write_table(pq.read_table(path), path, row_group_size=3)
    parts[1] = replace(parts[1], bytes=path.stat().st_size, sha256=sha256_file(path))
    for each in shards:
        (tmp_path / each.name).unlink()
    found = state(tmp_path, *shards, *parts)
    for index in (3, 2, 4, 2):
        first = 5 * index
        assert found.shard_rows("m", index)["seq"].to_pylist() == list(range(first, min(first + 5, 23)))
