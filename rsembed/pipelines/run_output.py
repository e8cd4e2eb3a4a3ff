"""The output of a run, in a folder or a bucket: whose it is, what lies where, what is read back of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.core.errors import ExportError, StoreConflictError
from rsembed.core.patch import Json
from rsembed.core.serialization import differences
from rsembed.embedders.weights import WeightsHandle, WeightsPin
from rsembed.writers.atomic import json_text, safe_label
from rsembed.writers.store import ANY, TMP, BlobStore, Stored

RUN_FILE = "_run.json"
"""The request and its fingerprint."""
WEIGHTS_LOCK = "weights.lock"
"""Exactly which weights the run uses, by label."""
MANIFEST = "manifest.json"
"""Written last: its presence says that the run ended."""
REPORT = "report.json"
QUANTIZATION = "quantization.json"
"""Of a dataset in int8: the size of a step in each dimension by label, and what it costs."""
STATE = "_state"
"""Folder of a local run's journal."""


class RunOutput:
    """What a run writes, by name, into ``store``."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    def shard_name(self, label: str, index: int) -> str:
        """Name of a shard's rows before compaction."""
        return f"{safe_label(label)}/_shards/shard-{index:06d}.parquet"

    def part_name(self, label: str, index: int) -> str:
        """Name of a compacted part."""
        return f"{safe_label(label)}/part-{index:05d}.parquet"

    def claim(self, fingerprint: str, description: Mapping[str, Json]) -> bool:
        """Bind the output to one request; True when it was bound to it before (a resume).

        Raises ExportError, naming the difference, when it belongs to another request, and when it
        holds files but no run.
        """
        found = self.read(RUN_FILE)
        if found is None:
            self.refuse_strangers()
            text = json_text({"fingerprint": fingerprint, "request": description})
            try:
                self.store.put(RUN_FILE, text.encode())
                return False
            except StoreConflictError:  # another was faster
                found = self.read(RUN_FILE) or b""
        self._check_same(found, fingerprint, description)
        return True

    def _check_same(self, found: bytes, fingerprint: str, description: Mapping[str, Json]) -> None:
        try:
            fields = json.loads(found)
            other, known = fields["request"], str(fields["fingerprint"])
        except (ValueError, KeyError, TypeError) as exc:
            raise ExportError(f"{self.store.url}/{RUN_FILE} is damaged ({exc}); export into a new folder") from exc
        if known == fingerprint:
            return
        changed = differences(other, description)
        raise ExportError(
            f"{self.store.url} holds another run; choose a new folder, or ask for the same thing again.\n"
            "What differs (there -> now):\n  " + "\n  ".join(changed[:20] or ["fingerprint"])
        )

    def refuse_strangers(self) -> None:
        """Raise ExportError when the output is not empty and belongs to no run."""
        if any(self.store.list(RUN_FILE)):
            return
        found = {blob.name.split("/")[0] for blob in islice(self.store.list(), 1000)} - {TMP, STATE}
        if found and not any(self.store.list(RUN_FILE)):  # somebody may have claimed it between the two
            raise ExportError(
                f"{self.store.url} is not empty and holds no run (found {', '.join(sorted(found)[:5])}); "
                "choose a new or empty folder"
            )

    def lock_weights(self, pins: Mapping[str, WeightsHandle | WeightsPin]) -> None:
        """Write down which weights the run uses, once; what is written stays (:meth:`locked_weights` obeys it)."""
        if pins and not any(self.store.list(WEIGHTS_LOCK)):
            text = json_text({label: pin.to_json() for label, pin in pins.items()})
            self.store.put(WEIGHTS_LOCK, text.encode())

    def locked_weights(self) -> dict[str, WeightsPin]:
        """The weights that an earlier part of this run used, by label; empty for a new run."""
        found = self.read(WEIGHTS_LOCK)
        if found is None:
            return {}
        try:
            return {label: WeightsPin.from_json(entry) for label, entry in json.loads(found).items()}
        except (ValueError, AttributeError) as exc:
            raise ExportError(
                f"{self.store.url}/{WEIGHTS_LOCK} is damaged ({exc}); remove it to lock the weights anew"
            ) from exc

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None where it is not there."""
        try:
            with self.store.open(name) as handle:
                return handle.read()
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: object, *, replaces: str | None = ANY) -> Stored:
        """``value`` as byte-stable JSON under ``name``."""
        return self.store.put(name, json_text(value).encode(), replaces=replaces)

    def remove_tmp(self) -> None:
        """Drop unfinished files; call only while nobody else writes."""
        self.store.remove(f"{TMP}/")


class PartRows:
    """The rows of one part, of which memory holds one row group. Raises FileNotFoundError, pyarrow.ArrowInvalid."""

    def __init__(self, store: BlobStore, name: str) -> None:
        self.name = name
        self._handle = store.open(name)
        try:
            self._file = pq.ParquetFile(self._handle)
        except BaseException:  # whatever it was, the file is not left open
            self._handle.close()
            raise
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._group: tuple[int, pa.Table] = (-1, pa.table({}))

    @property
    def seq(self) -> pa.ChunkedArray:
        """The rows' numbers."""
        return self._file.read(columns=["seq"]).column(0)

    def slice(self, offset: int, count: int) -> pa.Table:
        """``count`` rows from ``offset`` on."""
        end = offset + count
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (offset, end - 1))
        tables = []
        for index in range(first, last + 1):
            if self._group[0] != index:
                self._group = (index, self._file.read_row_group(index))
            start = int(self._ends[index]) - self._group[1].num_rows
            tables.append(self._group[1].slice(max(0, offset - start), end - max(offset, start)))
        return pa.concat_tables(tables)

    def close(self) -> None:
        """Close the file."""
        self._group = (-1, pa.table({}))
        self._handle.close()
