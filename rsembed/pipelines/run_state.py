"""What of a run stands in its output: committed shards, compacted parts, and what is still to do."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.core.errors import ExportError
from rsembed.pipelines.checkpoint import CheckpointManager, PartRecord
from rsembed.pipelines.run_output import PartRows
from rsembed.writers.store import Blob, BlobStore


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

    def part_seq(self, part: int) -> range:
        """Rows of a part, by ``seq``."""
        size = self.shards_per_part * self.shard_size
        return range(part * size, min((part + 1) * size, self.n_rows))


class LostShardError(ExportError):
    """A shard that counts as done has no rows, or others than were recorded; it has to be done again."""

    def __init__(self, message: str, label: str, index: int) -> None:
        super().__init__(message)
        self.label, self.index = label, index


class RunState:
    """The committed files of a run, looked up by label and number; what is gone since counts as not done.

    A shard's rows lie in its own file until its part is compacted after it, then in the part.
    """

    def __init__(self, store: BlobStore, shape: RunShape, checkpoint: CheckpointManager) -> None:
        self._store = store
        self.shape = shape
        self._checkpoint = checkpoint
        self._shards: dict[tuple[str, int], PartRecord] = {}
        self._parts: dict[tuple[str, int], PartRecord] = {}
        self._pending: set[tuple[str, int]] = set()
        self._open_part: PartRows | None = None
        records = checkpoint.records()
        blobs = _listing(store, records)
        for record in self._standing(records, blobs):
            self._note(record)
        for label, index in list(self._pending):
            record = self._shards[label, index]
            if record.name not in blobs or blobs[record.name].bytes != record.bytes:
                self._forget(label, index)

    def commit(self, record: PartRecord) -> None:
        """Journal a file that stands under its final name."""
        self._checkpoint.commit(record)
        self._note(record)

    def close(self) -> None:
        """Close the part that was read last."""
        if self._open_part is not None:
            self._open_part.close()
            self._open_part = None

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
        """The rows of a done shard, from wherever they lie; LostShardError when they are nowhere."""
        if (label, index) in self._pending:
            record = self._shards[label, index]
            table = recorded_rows(self._store, record)
            if table is None:
                raise LostShardError(
                    f"{self._store.url}/{record.name} is not the file that was written; "
                    "remove it and run the same command again",
                    label,
                    index,
                )
            return table
        part = self._parts.get((label, index // self.shape.shards_per_part))
        if part is None:
            raise LostShardError(
                f"shard {index} of {label} is journalled but its rows are nowhere; export into a new folder",
                label,
                index,
            )
        if self._open_part is None or self._open_part.name != part.name:
            self.close()
            self._open_part = PartRows(self._store, part.name)
        return self._open_part.slice(index * self.shape.shard_size - part.first_seq, self.shape.shard_rows(index))

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

    def _standing(self, records: Sequence[PartRecord], blobs: dict[str, Blob]) -> list[PartRecord]:
        """``records`` without those of parts whose rows are not under their name.

        A part takes its name just before or after it is journalled, so a crash may leave the
        generation before or after the journalled one. Both will do: the shards that differ are
        journalled later and still there, so they count as pending and the part is compacted again.
        """
        generations: dict[tuple[str, int], list[PartRecord]] = {}
        for record in records:
            if record.kind == "part" and record.name in blobs:
                generations.setdefault((record.label, record.index), []).append(record)
        kept = {id(self._stands(found, blobs[found[0].name])) for found in generations.values()}
        return [record for record in records if record.kind == "shard" or id(record) in kept]

    def _stands(self, generations: Sequence[PartRecord], blob: Blob) -> PartRecord | None:
        """Which record of a part to go by; None when the file is not this part at all."""
        if len(generations) == 1 and generations[0].bytes == blob.bytes:
            return generations[0]
        if any(record.bytes == blob.bytes for record in generations):
            sha256 = _sha256(self._store, blob.name)
            same = [record for record in generations if record.sha256 == sha256]
            if same:
                return same[-1]
        # The oldest, so that every shard of a later generation is taken anew.
        return generations[0] if self._holds_rows(blob.name, self.shape.part_seq(generations[0].index)) else None

    def _holds_rows(self, name: str, expected: range) -> bool:
        """Whether a file is a whole part with just the rows of those numbers."""
        try:
            with contextlib.closing(PartRows(self._store, name)) as part:
                return bool(part.seq.to_pylist() == list(expected))
        except (KeyError, OSError, pa.ArrowInvalid):  # cut, or no Parquet at all
            return False


def recorded_rows(store: BlobStore, record: PartRecord) -> pa.Table | None:
    """The rows of the file that ``record`` speaks of; None when its bytes are not there."""
    try:
        with store.open(record.name) as handle:
            data = handle.read()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return None
    return pq.read_table(pa.BufferReader(data))


def _listing(store: BlobStore, records: Sequence[PartRecord]) -> dict[str, Blob]:
    """What stands where the files of ``records`` should, by name."""
    folders = {record.name.rpartition("/")[0].partition("/")[0] for record in records}
    return {blob.name: blob for folder in sorted(folders) for blob in store.list(f"{folder}/" if folder else "")}


def _sha256(store: BlobStore, name: str) -> str:
    digest = hashlib.sha256()
    with store.open(name) as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
