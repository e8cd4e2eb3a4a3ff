"""What of a run stands on disk: committed shards, compacted parts, and what is still to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.core.errors import ExportError
from rsembed.pipelines.checkpoint import CheckpointManager, PartRecord
from rsembed.writers.atomic import sha256_file


@dataclass(frozen=True)
class RunShape:
    """How a run's rows are cut: ``n_rows`` into shards, shards into parts."""

    n_rows: int
    shard_size: int
    shards_per_part: int

    @property
    def n_shards(self) -> int:
        """Shards of each model."""
        return -(-self.n_rows // self.shard_size)

    @property
    def n_parts(self) -> int:
        """Parts of each model."""
        return -(-self.n_shards // self.shards_per_part)

    def shard_rows(self, index: int) -> int:
        """Rows of a shard (the last may be short)."""
        return min(self.shard_size, self.n_rows - index * self.shard_size)

    def part_shards(self, part: int) -> range:
        """Shards of a part."""
        first = part * self.shards_per_part
        return range(first, min(first + self.shards_per_part, self.n_shards))


class RunState:
    """The committed files of a run, looked up by label and number.

    A shard's rows lie in its own file until its part is compacted after it, then in the part.
    """

    def __init__(self, root: Path, shape: RunShape, checkpoint: CheckpointManager) -> None:
        self._root = root
        self.shape = shape
        self._checkpoint = checkpoint
        self._shards: dict[tuple[str, int], PartRecord] = {}
        self._parts: dict[tuple[str, int], PartRecord] = {}
        self._pending: set[tuple[str, int]] = set()
        for record in _standing(root, checkpoint.records()):
            self._note(record)
        for label, index in list(self._pending):
            if not _intact(root, self._shards[label, index]):
                self._forget(label, index)

    def commit(self, record: PartRecord) -> None:
        """Journal a file that stands under its final name."""
        self._checkpoint.commit(record)
        self._note(record)

    def _note(self, record: PartRecord) -> None:
        key = (record.label, record.index)
        if record.kind == "shard":
            self._shards[key] = record
            self._pending.add(key)
        else:
            self._parts[key] = record
            self._pending -= {(record.label, shard) for shard in self.shape.part_shards(record.index)}

    def _forget(self, label: str, shard: int) -> None:
        self._shards.pop((label, shard), None)
        self._pending.discard((label, shard))

    def shard(self, label: str, index: int) -> PartRecord | None:
        """The latest record of a shard; None while it is not done."""
        return self._shards.get((label, index))

    def open_slots(self, label: str, index: int) -> tuple[int, ...]:
        """Slots of a shard that are to be done: all, those that failed, or none."""
        record = self._shards.get((label, index))
        if record is None:
            return tuple(range(self.shape.shard_rows(index)))
        first = index * self.shape.shard_size
        return tuple(sorted({failure.seq - first for failure in record.failures}))

    def shard_rows(self, label: str, index: int) -> pa.Table:
        """The rows of a done shard, from wherever they lie."""
        if (label, index) in self._pending:
            return pq.read_table(self._root / self._shards[label, index].name)
        part = self._parts.get((label, index // self.shape.shards_per_part))
        if part is None:
            raise ExportError(
                f"shard {index} of {label} is journalled but its rows are nowhere; export into a new folder"
            )
        offset = index * self.shape.shard_size - part.first_seq
        return pq.read_table(self._root / part.name).slice(offset, self.shape.shard_rows(index))

    def parts_to_compact(self, label: str) -> Iterator[int]:
        """Parts that are missing or older than one of their shards; every shard must be done."""
        for part in range(self.shape.n_parts):
            stale = any((label, shard) in self._pending for shard in self.shape.part_shards(part))
            if stale or (label, part) not in self._parts:
                yield part

    def records_of(self, label: str) -> list[PartRecord]:
        """The latest records of a label's shards, in order."""
        return [self._shards[label, i] for i in range(self.shape.n_shards) if (label, i) in self._shards]

    def parts_of(self, label: str) -> list[PartRecord]:
        """The compacted parts of a label, in order."""
        return [self._parts[label, i] for i in range(self.shape.n_parts) if (label, i) in self._parts]


def _standing(root: Path, records: Sequence[PartRecord]) -> list[PartRecord]:
    """``records`` without those of parts that are not (or no longer) the file under their name.

    A part is journalled just before it takes its name, so after a crash the file may be the one
    before. Then the shards that were to go into it count as pending again.
    """
    standing: dict[tuple[str, int], PartRecord] = {}
    several = Counter((r.label, r.index) for r in records if r.kind == "part")
    for record in records:
        key = (record.label, record.index)
        if record.kind != "part" or not _intact(root, record):
            continue
        # Two generations may have the same size; only then is the file read.
        if several[key] == 1 or sha256_file(root / record.name) == record.sha256:
            standing[key] = record
    kept = {id(record) for record in standing.values()}
    return [record for record in records if record.kind == "shard" or id(record) in kept]


def _intact(root: Path, record: PartRecord) -> bool:
    """Whether a file of the journalled size stands under the record's name."""
    try:
        return (root / record.name).stat().st_size == record.bytes
    except FileNotFoundError:
        return False
