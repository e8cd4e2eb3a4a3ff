"""Work as values: what is claimed and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rsembed.core.patch import Json
from rsembed.pipelines.checkpoint import PartRecord
from workers.ledger.run_records import ModelEntry


@dataclass(frozen=True)
class Marks:
    """What a suspect unit was about to do, written before it did it.

    ``slots``: the rows in hand; ``deaths``: losses that happened while a slot was marked;
    ``batches``: slots of batches still to be tried; ``out_of_memory``: the process left
    because its memory budget was spent.
    """

    slots: tuple[int, ...] = ()
    deaths: Mapping[int, int] = field(default_factory=dict)
    batches: tuple[tuple[int, ...], ...] = ()
    out_of_memory: bool = False

    def to_json(self) -> dict[str, Json]:
        """As the ledger stores it; what is empty is left out."""
        fields: dict[str, Json] = {}
        if self.slots:
            fields["slots"] = list(self.slots)
        if self.deaths:
            fields["deaths"] = {str(slot): count for slot, count in sorted(self.deaths.items())}
        if self.batches:
            fields["batches"] = [list(batch) for batch in self.batches]
        if self.out_of_memory:
            fields["out_of_memory"] = True
        return fields

    @classmethod
    def from_json(cls, value: Mapping[str, object] | None) -> Marks:
        """The inverse of :meth:`to_json`; None and ``{}`` give empty marks."""
        fields = value or {}
        slots, deaths, batches = fields.get("slots", ()), fields.get("deaths", {}), fields.get("batches", ())
        assert isinstance(slots, Sequence) and isinstance(deaths, Mapping) and isinstance(batches, Sequence)  # noqa: PT018 - our own JSON
        return cls(
            slots=tuple(int(slot) for slot in slots),
            deaths={int(slot): int(count) for slot, count in deaths.items()},
            batches=tuple(tuple(int(slot) for slot in batch) for batch in batches),
            out_of_memory=bool(fields.get("out_of_memory", False)),
        )


@dataclass(frozen=True)
class ClaimedUnit:
    """A leased fetch unit. ``wanted``: slots to fetch, None all; ``settled``: slots that have their outcome.

    What is to do is ``wanted`` without ``settled``. ``deadline_s``: seconds from the claim until
    the lease can no longer be renewed.
    """

    run: int
    group: int
    shard: int
    token: str
    generation: int
    first_seq: int
    n_rows: int
    wanted: tuple[int, ...] | None
    settled: frozenset[int]
    losses: int
    marks: Marks
    deadline_s: float


@dataclass(frozen=True)
class ClaimedShard:
    """A leased shard of one model.

    ``wanted``: slots to embed, None all. ``part``, ``etag``: its file from before, when it is a
    retry. ``fetch_failures``: slot -> (error class, message) of rows that have no input.
    ``requests``: what its fetch unit cost; 0 for all but the first model of the group.
    """

    run: int
    model: ModelEntry
    shard: int
    token: str
    generation: int
    first_seq: int
    n_rows: int
    wanted: tuple[int, ...] | None
    losses: int
    marks: Marks
    deadline_s: float
    part: PartRecord | None
    etag: str | None
    fetch_failures: Mapping[int, tuple[str, str]]
    requests: int


@dataclass(frozen=True)
class FailureDetail:
    """Why a row failed. ``traceback`` is kept once for all rows that share it."""

    stage: Literal["fetch", "infer"]
    error_class: str
    message: str
    traceback: str | None = None
    attempts: int = 1


@dataclass(frozen=True)
class RowOutcome:
    """What became of a row; ``failure`` is there exactly when ``state`` is ``failed``."""

    slot: int
    seq: int
    row: int
    id: str
    state: Literal["done", "no_data", "failed"]
    failure: FailureDetail | None = None


@dataclass(frozen=True)
class SettleAnswer:
    """``kept``: the lease was ours and the outcomes stand. ``open_rows``: rows of the unit without an outcome."""

    kept: bool
    open_rows: int
