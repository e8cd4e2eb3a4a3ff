"""The ledger's tables. ``rows`` and ``fetch_jobs`` are partitioned by run (see :mod:`workers.ledger.partitions`).

Statements are written in SQL where they stand; these classes say what the tables are, for the
migrations and for whoever reads a statement. Partial indexes cover open work only, so that
finished runs cost nothing.
"""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Sequence,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from workers.ledger.records import RunState, ShardState, UnitState

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
HOT = {"postgresql_with": {"fillfactor": 70}}
"""Room on every page for what is updated in place: leases, heartbeats."""


def one_of(column: str, states: type[RunState | UnitState | ShardState]) -> CheckConstraint:
    """``column`` holds one of ``states``; shards are never stored as cancelled."""
    names = ", ".join(f"'{state.value}'" for state in states if state.value != "cancelled" or states is RunState)
    return CheckConstraint(f"{column} IN ({names})", name=column)


class Base(DeclarativeBase):
    """Metadata of the ledger. Integers are 8 bytes, strings unbounded, times carry their zone."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own name, read once
        int: BigInteger,
        str: Text,
        float: Double,
        dt.datetime: DateTime(timezone=True),
        dt.date: Date,
        uuid.UUID: Uuid,
        list[int]: ARRAY(Integer),
        list[str]: ARRAY(Text),
    }


commit_numbers = Sequence("commit_numbers", metadata=Base.metadata)
"""Numbers every committed file, so that a run's records have an order."""


def count() -> Mapped[int]:
    """A small number that starts at 0."""
    return mapped_column(Integer, server_default="0")


def now() -> Mapped[dt.datetime]:
    """When the row was written."""
    return mapped_column(server_default=func.clock_timestamp())


class Run(Base):
    """A request. ``finish_*``: the lease of whoever finishes it; ``probing``: blocked before, one unit at a time."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("fingerprint", "output"),
        one_of("state", RunState),
        Index("ix_runs_active", "id", postgresql_where=text("ended_at IS NULL")),
        HOT,
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    fingerprint: Mapped[str]
    output: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    blocked_by: Mapped[str | None]
    probing: Mapped[bool] = mapped_column(server_default=false())
    priority: Mapped[int] = count()
    max_requests: Mapped[int | None]
    n_rows: Mapped[int]
    shard_size: Mapped[int] = mapped_column(Integer)
    shards_per_part: Mapped[int] = mapped_column(Integer)
    groups: Mapped[object] = mapped_column(JSON)
    spec: Mapped[object] = mapped_column(JSON)
    generation: Mapped[int] = count()
    requests: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[dt.datetime] = now()
    changed_at: Mapped[dt.datetime] = now()
    ended_at: Mapped[dt.datetime | None]
    finish_token: Mapped[uuid.UUID | None]
    finish_worker: Mapped[uuid.UUID | None]
    finish_until: Mapped[dt.datetime | None]
    finish_after: Mapped[dt.datetime | None]


class RunModel(Base):
    """A model of a run. ``claimed_at``: when a shard of it was last claimed, to the second."""

    __tablename__ = "run_models"
    __table_args__ = (UniqueConstraint("run_id", "label"), HOT)

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    model_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    label: Mapped[str]
    model: Mapped[str]
    group_index: Mapped[int] = mapped_column(Integer)
    queue: Mapped[str]
    device_class: Mapped[str] = mapped_column(server_default="")
    claimed_at: Mapped[dt.datetime | None]


class Row(Base):
    """An input row, written once when the run is loaded."""

    __tablename__ = "rows"
    __table_args__ = ({"postgresql_partition_by": "LIST (run_id)"},)

    run_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    input_row: Mapped[int]
    start_date: Mapped[dt.date]
    end_date: Mapped[dt.date]
    kind: Mapped[int] = mapped_column(SmallInteger)
    lon: Mapped[float]
    lat: Mapped[float]
    box_west: Mapped[float | None]
    box_south: Mapped[float | None]
    box_east: Mapped[float | None]
    box_north: Mapped[float | None]
    id: Mapped[str]
    carried: Mapped[str | None]


class Failure(Base):
    """A row that failed; ``entry_index`` is its group where ``stage`` is fetch, its model where it is infer."""

    __tablename__ = "failures"
    __table_args__ = (Index(None, "run_id", "error_class"),)

    run_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(primary_key=True)
    entry_index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    input_row: Mapped[int]
    row_id: Mapped[str]
    error_class: Mapped[str]
    message: Mapped[str]
    trace_hash: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(Integer)
    at: Mapped[dt.datetime] = now()


class Traceback(Base):
    """A traceback, once for all rows of a run that share it."""

    __tablename__ = "tracebacks"

    run_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]


class Worker(Base):
    """A worker process. ``claims``: how many it has made; ``degraded``: model -> reason."""

    __tablename__ = "workers"
    __table_args__ = (CheckConstraint("state IN ('running', 'draining', 'stopped')", name="state"), HOT)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(Integer)
    queues: Mapped[list[str]]
    models: Mapped[list[str]]
    device: Mapped[str]
    version: Mapped[str]
    state: Mapped[str]
    degraded: Mapped[object] = mapped_column(JSONB, server_default="{}")
    rss_bytes: Mapped[int] = mapped_column(server_default="0")
    leased: Mapped[int] = count()
    claims: Mapped[int] = mapped_column(server_default="0")
    started_at: Mapped[dt.datetime] = now()
    heartbeat_at: Mapped[dt.datetime] = now()
    claimed_at: Mapped[dt.datetime | None]


class Drain(Base):
    """A queue from which nobody claims; ``*`` is all of them."""

    __tablename__ = "drains"

    queue: Mapped[str] = mapped_column(primary_key=True)
    who: Mapped[str]
    at: Mapped[dt.datetime] = now()


class Progress(Base):
    """What was settled when, insert-only, for the rates; old entries are summed up by the hour."""

    __tablename__ = "progress"

    run_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[dt.datetime] = mapped_column(primary_key=True, server_default=func.clock_timestamp())
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    stage: Mapped[str]
    entry_index: Mapped[int] = mapped_column(Integer)
    settled: Mapped[int]
    failed: Mapped[int]
    requests: Mapped[int]
    bytes: Mapped[int]


class Event(Base):
    """A change of a run or a unit, or what an operator did; outlives its run."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "run_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    run_id: Mapped[int | None]
    at: Mapped[dt.datetime] = now()
    who: Mapped[str]
    kind: Mapped[str]
    detail: Mapped[object] = mapped_column(JSON)
