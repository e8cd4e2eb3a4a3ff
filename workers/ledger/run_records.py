"""Runs as values: what they consist of and where they stand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rsembed.core.patch import Json


class RunState(StrEnum):
    """Where a run stands; legal moves in :mod:`workers.ledger.states`."""

    LOADING = "loading"
    RUNNING = "running"
    PAUSED = "paused"
    BLOCKED = "blocked"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FINISHING = "finishing"
    DONE = "done"
    DONE_WITH_FAILURES = "done_with_failures"
    DROPPING = "dropping"


class UnitState(StrEnum):
    """Where a fetch unit stands."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"


class ShardState(StrEnum):
    """Where a shard of one model stands. The last three are ends; ``cancelled``: its run was."""

    WAITING = "waiting"
    READY = "ready"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class ModelEntry:
    """A model of a run. ``model`` is its id, ``label`` its name in the run, ``group`` its fetch.

    ``device_class``: what a worker's device must be (``cpu``, ``cuda``); empty for any.
    """

    index: int
    label: str
    model: str
    group: int
    queue: str
    device_class: str = ""


@dataclass(frozen=True)
class GroupEntry:
    """A fetch of a run. ``input_key``: digest of what is fetched, bands aside.

    ``bytes_per_row``: planned size of one row's patch in the input store.
    """

    index: int
    input_key: str
    bands: tuple[str, ...]
    bytes_per_row: int


@dataclass(frozen=True)
class NewRun:
    """A run to be loaded; ``(fingerprint, output)`` is its identity. ``who``: the operator, for the events."""

    fingerprint: str
    output: str
    spec: Mapping[str, Json]
    n_rows: int
    shard_size: int
    shards_per_part: int
    groups: tuple[GroupEntry, ...]
    models: tuple[ModelEntry, ...]
    priority: int = 0
    max_requests: int | None = None
    who: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A run as the ledger has it. ``generation`` counts retries; ``requests`` what its fetches cost so far."""

    id: int
    fingerprint: str
    output: str
    state: RunState
    reason: str | None
    priority: int
    max_requests: int | None
    n_rows: int
    shard_size: int
    shards_per_part: int
    groups: tuple[GroupEntry, ...]
    models: tuple[ModelEntry, ...]
    spec: Mapping[str, Json]
    generation: int
    requests: int
    created_at: dt.datetime
    ended_at: dt.datetime | None

    @property
    def n_shards(self) -> int:
        """Shards of each model."""
        return -(-self.n_rows // self.shard_size)


@dataclass(frozen=True)
class StoredRows:
    """Consecutive rows of a run as columns of equal length.

    ``start``, ``end``: days since 1970. ``boxes``: (min lon, min lat, max lon, max lat) or None.
    ``carried``: the user's own columns of each row as JSON text, None where there are none.
    """

    seq: Sequence[int]
    row: Sequence[int]
    start: Sequence[int]
    end: Sequence[int]
    kind: Sequence[int]
    lon: Sequence[float]
    lat: Sequence[float]
    boxes: Sequence[tuple[float, float, float, float] | None]
    ids: Sequence[str]
    carried: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.seq)
