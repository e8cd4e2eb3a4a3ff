"""The input store: fetched patches on their way from IO to inference workers.

The patches of a unit lie in *segments*, immutable objects ``<unit key>/<name>.pack``, each a
concatenation of ``input_record`` records. A segment is whole or not there, and every record has
its checksum; nothing is fsynced, for what is lost is fetched again. Whatever cannot be read is
simply missing; only a store that is away, closed or full raises.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

from rsembed.core.patch import Patch
from rsembed.writers.store import ANY, BlobStore, FolderStore, open_store, store_errors
from workers.segment import Segment, StoredRecord, merged

logger = logging.getLogger(__name__)

_SUFFIX = ".pack"
_COPY_BYTES = 8 << 20


class InputStore:
    """Patches of units at ``url``, a folder or a bucket; ``scratch``: where a bucket's segments are read from.

    Safe to use from several threads. Raises SpecError for a URL that is no store.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        self._store = open_store(url, scratch=scratch, durable=False)
        self._scratch = scratch

    def write_segment(self, unit_key: str, name: str, records: bytes) -> int:
        """Keep ``records`` as segment ``name`` of a unit; returns its bytes.

        Raises StoreFullError when there is no space (wait; it is not an attempt), StoreError when
        the store cannot be written to.
        """
        return self._store.put(f"{unit_key}/{name}{_SUFFIX}", records, replaces=ANY).bytes

    def open_unit(self, unit_key: str) -> UnitInputs:
        """What is kept of a unit; nothing, where nothing is. Raises StoreError when the store cannot be read."""
        names = [blob.name for blob in self._store.list(f"{unit_key}/") if blob.name.endswith(_SUFFIX)]
        return UnitInputs(self._store, names, self._scratch)

    def delete_unit(self, unit_key: str) -> None:
        """Forget a unit; one that is not there is no error."""
        self._store.remove(f"{unit_key}/")

    def list_units(self) -> Iterator[tuple[str, int, float]]:
        """``(unit key, bytes, time of its newest segment in s since 1970)`` of every unit."""
        for key, blobs in groupby(self._store.list(), key=lambda blob: blob.name.rpartition("/")[0]):
            segments = [blob for blob in blobs if blob.name.endswith(_SUFFIX)]
            if segments:
                yield key, sum(blob.bytes for blob in segments), max(blob.modified for blob in segments)

    def check(self) -> None:
        """Write, read and remove a small object; raises StoreError with the reason when that cannot be done."""
        name = f"_check/{uuid.uuid4().hex}"
        self._store.put(name, b"rsembed", replaces=ANY)
        with self._store.open(name) as handle:
            handle.read()
        self._store.remove(name)

    def delete_unfinished(self, older_s: float = 3600.0) -> None:
        """Remove what writers that died left half-written longer than ``older_s`` seconds ago (a folder only)."""
        if not isinstance(self._store, FolderStore) or not self._store.scratch.is_dir():
            return
        with store_errors(self._store.url):
            for path in self._store.scratch.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - older_s:
                        path.unlink()


class UnitInputs:
    """The patches of one unit as they were when it was opened. Safe to use from several threads."""

    def __init__(self, store: BlobStore, names: Sequence[str], scratch: Path) -> None:
        self._store = store
        self._names = names
        self._scratch = scratch
        self._lock = threading.Lock()
        self._segments: list[Segment] = []
        self._records: dict[str, list[StoredRecord]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: str, bands: Sequence[str]) -> Patch | None:
        """The patch under ``key`` with just ``bands``, in that order; None when they are not all there, intact.

        They may come from several records, which must tell of the same frames on the same grid.
        """
        records, asked = self._found(key), tuple(bands)
        for record in records:
            # One that has them all goes before a sum of several: it is what a single request gave.
            there = record.header.bands
            if (asked == there or set(asked) <= set(there)) and (patch := record.read()) is not None:
                return patch.select(asked)
        patches = [patch for record in records if (patch := record.read()) is not None]
        return merged(patches, bands)

    def lacks(self, key: str, bands: Sequence[str]) -> tuple[str, ...]:
        """Those of ``bands`` that are to be fetched so that :meth:`get` can give them all.

        All of them when what is there cannot be put together. Reads what it counts on.
        """
        records = [record for record in self._found(key) if record.is_intact()]
        if not records:
            return tuple(bands)
        if any(set(bands) <= set(record.header.bands) for record in records):
            return ()
        if any(not records[0].fits(record) for record in records[1:]):
            return tuple(bands)
        there = {band for record in records for band in record.header.bands}
        return tuple(band for band in bands if band not in there)

    def claims(self, key: str, bands: Sequence[str]) -> bool:
        """Whether records say that they hold ``bands`` of ``key``; only :meth:`get` knows whether they are intact."""
        records, asked = self._found(key), tuple(bands)
        if any(asked == record.header.bands for record in records):
            return True
        there = {band for record in records for band in record.header.bands}
        return there.issuperset(asked)

    def keys(self, bands: Sequence[str]) -> set[str]:
        """Keys that :meth:`get` has an answer for. Every byte of theirs is checked."""
        return {key for key in self._index() if not self.lacks(key, bands)}

    def close(self) -> None:
        """Close the segments; what is stored stays."""
        with self._lock:
            for segment in self._segments:
                segment.close()
            self._segments, self._records, self._names = [], None, ()

    def _found(self, key: str) -> Sequence[StoredRecord]:
        return self._index().get(key, ())

    def _index(self) -> dict[str, list[StoredRecord]]:
        """Every record by key, in the order of the segments' names."""
        if (known := self._records) is not None:
            return known
        with self._lock:
            if self._records is None:
                records: dict[str, list[StoredRecord]] = {}
                for name in self._names:
                    segment = self._open(name)
                    if segment is None:
                        continue
                    self._segments.append(segment)
                    for key, record in segment.records():
                        records.setdefault(key, []).append(record)
                self._records = records
            return self._records

    def _open(self, name: str) -> Segment | None:
        """A segment as a file on this machine; None when it is gone."""
        try:
            source = self._store.open(name)
        except FileNotFoundError:
            logger.warning("input_segment_gone", extra={"segment": name})
            return None
        if isinstance(self._store, FolderStore):
            return Segment(source)
        with source, store_errors(str(self._scratch)):
            self._scratch.mkdir(parents=True, exist_ok=True)
            path = self._scratch / f"segment-{uuid.uuid4().hex}"
            try:
                with path.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _COPY_BYTES)
                return Segment(path.open("rb"))
            finally:
                path.unlink(missing_ok=True)  # open, it stays until it is closed, whatever becomes of us
