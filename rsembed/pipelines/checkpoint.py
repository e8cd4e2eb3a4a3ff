"""What of a run is done, so that the next process does only the rest.

:class:`CheckpointManager` is the seam; :class:`FileCheckpoint` keeps a journal in the output
folder: one JSON line per committed file, written and fsynced after the file stands under its
final name. A torn last line (the process died) is dropped. Reading it costs O(shards).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from rsembed.core.errors import ExportError


@dataclass(frozen=True)
class FailureRecord:
    """A row that failed for one model."""

    row: int
    seq: int
    id: str
    stage: str
    error_class: str
    message: str


@dataclass(frozen=True)
class PartRecord:
    """A committed file: a shard's rows of one model, or a part compacted from several shards.

    ``name``: path below the output folder. ``counts``: rows by status. ``first_seq``: its first
    row. ``index``: number of the shard or part. ``requests``: provider requests it cost;
    ``batch_size`` the B in force when it was smaller than planned, else None.
    """

    kind: Literal["shard", "part"]
    label: str
    index: int
    name: str
    first_seq: int
    rows: int
    bytes: int
    sha256: str
    counts: Mapping[str, int]
    failures: tuple[FailureRecord, ...] = ()
    requests: int = 0
    batch_size: int | None = None


class CheckpointManager(Protocol):
    """Where a run's state is kept."""

    def records(self) -> tuple[PartRecord, ...]:
        """Everything committed, in order; a later record of the same file replaces an earlier one."""
        ...

    def commit(self, record: PartRecord) -> None:
        """Make ``record`` durable; its file already stands under its name."""
        ...

    def close(self) -> None:
        """Release files or connections."""
        ...


class FileCheckpoint:
    """A :class:`CheckpointManager` in a journal file."""

    def __init__(self, journal: Path) -> None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        self._records, good = _read(journal)
        self._file = journal.open("r+b" if journal.exists() else "w+b")
        self._file.truncate(good)
        self._file.seek(good)

    def records(self) -> tuple[PartRecord, ...]:
        """See :class:`CheckpointManager`."""
        return tuple(self._records)

    def commit(self, record: PartRecord) -> None:
        """See :class:`CheckpointManager`."""
        line = json.dumps(asdict(record), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._records.append(record)

    def close(self) -> None:
        """See :class:`CheckpointManager`."""
        self._file.close()


def _read(journal: Path) -> tuple[list[PartRecord], int]:
    """The journal's records and the length of its intact beginning in bytes."""
    if not journal.exists():
        return [], 0
    records: list[PartRecord] = []
    good = 0
    lines = journal.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n"):
                break
            fields = json.loads(line)
            fields["failures"] = tuple(FailureRecord(**failure) for failure in fields["failures"])
            records.append(PartRecord(**fields))
        except (ValueError, TypeError, KeyError) as exc:
            if number == len(lines):
                break
            raise ExportError(
                f"{journal} is damaged in line {number} of {len(lines)} ({exc}); restore it from a copy, "
                "or export into a new folder"
            ) from exc
        good += len(line)
    return records, good
