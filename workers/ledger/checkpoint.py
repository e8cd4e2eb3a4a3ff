"""A run's state in the ledger, for the code that finishes runs wherever they are kept."""

from __future__ import annotations

from rsembed.pipelines.checkpoint import PartRecord
from workers.ledger.finishing import Finishing


class LedgerCheckpoint:
    """A :class:`~rsembed.pipelines.checkpoint.CheckpointManager`: of a file only its last record is kept."""

    def __init__(self, ledger: Finishing, run_id: int) -> None:
        self._ledger = ledger
        self._run_id = run_id

    def records(self) -> tuple[PartRecord, ...]:
        """The files of ended shards and the compacted parts, in the order they were committed."""
        return self._ledger.file_records(self._run_id)

    def commit(self, record: PartRecord) -> None:
        """See :class:`~rsembed.pipelines.checkpoint.CheckpointManager`."""
        self._ledger.commit_file(self._run_id, record)

    def close(self) -> None:
        """Nothing to release: the ledger is its owner's."""
