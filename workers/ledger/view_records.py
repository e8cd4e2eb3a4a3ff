"""What operators, dispatchers and probes see of the fleet, as values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rsembed.core.patch import Json
from workers.ledger.run_records import RunRecord, RunState
from workers.ledger.work_records import FailureDetail


@dataclass(frozen=True)
class WorkerInfo:
    """A worker process. ``models``: ids it serves, () for all; ``device``: ``cpu``, ``cuda:0``."""

    id: str
    kind: Literal["io", "gpu", "cpu", "dispatcher"]
    host: str
    pid: int
    queues: tuple[str, ...]
    models: tuple[str, ...]
    device: str
    version: str


@dataclass(frozen=True)
class WorkerRecord:
    """A worker as last heard of. ``claim_age_s``: since its last claim; ``degraded``: model -> reason."""

    info: WorkerInfo
    state: Literal["running", "draining", "stopped"]
    started_at: dt.datetime
    heartbeat_age_s: float
    claim_age_s: float | None
    degraded: Mapping[str, str]
    rss_bytes: int
    leased: int


@dataclass(frozen=True)
class HeartbeatAnswer:
    """``lost``: tokens that are no longer ours; ``runs``: state of each run we hold a lease of.

    ``known``: the ledger has this worker; if not it must register again.
    """

    lost: frozenset[str]
    runs: Mapping[int, RunState]
    draining: bool
    known: bool = True


@dataclass(frozen=True)
class StageStatus:
    """One fetch or one model of a run. Counts are rows, rates rows per second, ages and ``eta_s`` seconds.

    ``open``: rows without an outcome; ``ready_units`` and ``leased_units`` count units or shards.
    """

    stage: Literal["fetch", "embed"]
    label: str
    done: int
    no_data: int
    low_quality: int
    failed: int
    open: int
    ready_units: int
    leased_units: int
    oldest_ready_s: float | None
    rate_1m: float
    rate_5m: float
    rate_60m: float
    eta_s: float | None


@dataclass(frozen=True)
class RunStatus:
    """What an operator wants to know of a run.

    ``failures``: rows by error class. ``losses``: leases gone without an outcome, ``expiries``
    those that ran out; ``suspects``: units that run alone because of it. ``unserved``: models
    with work that no live worker serves. ``drained``: queues of this run that are drained.
    """

    run: RunRecord
    stages: tuple[StageStatus, ...]
    failures: Mapping[str, int]
    losses: int
    expiries: int
    suspects: int
    requests: int
    unserved: tuple[str, ...]
    drained: tuple[str, ...] = ()


@dataclass(frozen=True)
class FailedRow:
    """A failed row; ``label`` is the model's, or the labels of the fetch joined by ``+``."""

    run: int
    label: str
    seq: int
    row: int
    id: str
    failure: FailureDetail
    at: dt.datetime


@dataclass(frozen=True)
class Event:
    """A change of a run or unit, or what an operator did; ``run`` is None for the fleet's own."""

    id: int
    run: int | None
    at: dt.datetime
    who: str
    kind: str
    detail: Mapping[str, Json]


@dataclass(frozen=True)
class Expired:
    """What a sweep did: leases that ran out, and runs whose cancelling is complete."""

    units: int = 0
    shards: int = 0
    finishing: int = 0
    cancelled: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Measure:
    """One value for Prometheus: ``name`` without prefix, its labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float
