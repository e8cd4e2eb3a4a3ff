"""What a task did with its ticket: the one value that services hand to the task shells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsembed.core.errors import RSEmbedError

Stage = Literal["fetch", "embed", "finish", "clean"]


class WorkFailedError(RSEmbedError):
    """A task ended without a single success; its failures are in the ledger already."""

    error_class = "work_failed"


@dataclass(frozen=True)
class WorkReport:
    """One unit, shard or control job as it ended; counts are rows.

    ``run``, ``shard`` and ``label`` are None where there was nothing to do or where the work has
    none. ``released``: rows given back without an outcome (shutdown, pause, lost lease).
    """

    run: int | None
    stage: Stage
    shard: int | None
    label: str | None
    done: int
    failed: int
    released: int

    @classmethod
    def nothing(cls, stage: Stage) -> WorkReport:
        """The report of a ticket for which the ledger had no work."""
        return cls(None, stage, None, None, 0, 0, 0)

    @property
    def is_idle(self) -> bool:
        """Whether the ticket found nothing to do."""
        return self.run is None

    @property
    def has_failed(self) -> bool:
        """Whether there was work and none of it succeeded, though it was not merely given back."""
        return self.failed > 0 and self.done == 0

    def checked(self) -> WorkReport:
        """The report itself; raises WorkFailedError where there was work and none of it succeeded."""
        if self.has_failed:
            raise WorkFailedError(f"nothing succeeded: {self.to_json()}")
        return self

    def to_json(self) -> dict[str, int | str | None]:
        """What Flower shows as the task's result; fields that say nothing are left out."""
        shown: dict[str, int | str | None] = {"done": self.done, "failed": self.failed, "released": self.released}
        named = {"run": self.run, "stage": self.stage, "shard": self.shard, "model": self.label}
        return shown | {name: value for name, value in named.items() if value is not None}
