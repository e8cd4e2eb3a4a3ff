"""The tables of work: fetch units, their rows' outcomes, shards and the files they became."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, Integer, false, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.ledger.models import HOT, Base, count, one_of
from workers.ledger.records import ShardState, UnitState


class FetchUnit(Base):
    """A shard of one fetch group. ``open_rows`` and the three counts always sum to ``n_rows``.

    ``row_bytes``: planned bytes of a row; ``reserved_bytes``: held of the input store's budget.
    A done unit keeps its token, so that its settling can be read back.
    """

    __tablename__ = "fetch_units"
    __table_args__ = (
        one_of("state", UnitState),
        CheckConstraint("open_rows + done_rows + no_data_rows + failed_rows = n_rows", name="rows_add_up"),
        CheckConstraint("open_rows >= 0", name="open_rows"),
        Index(
            "ix_fetch_units_claimable", "run_id", "shard", "group_index",
            postgresql_where=text("state = 'pending' AND admitted"),
        ),
        Index(
            "ix_fetch_units_unadmitted", "run_id", "shard", "group_index",
            postgresql_where=text("state = 'pending' AND NOT admitted"),
        ),
        Index("ix_fetch_units_leased", "run_id", postgresql_where=text("state = 'leased'")),
        Index("ix_fetch_units_reserved", "run_id", postgresql_where=text("reserved_bytes > 0")),
        HOT,
    )  # fmt: skip

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    group_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    shard: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str]
    admitted: Mapped[bool] = mapped_column(server_default=false())
    generation: Mapped[int] = count()
    first_seq: Mapped[int]
    n_rows: Mapped[int] = mapped_column(Integer)
    wanted: Mapped[list[int] | None]
    open_rows: Mapped[int] = mapped_column(Integer)
    done_rows: Mapped[int] = count()
    no_data_rows: Mapped[int] = count()
    failed_rows: Mapped[int] = count()
    row_bytes: Mapped[int] = mapped_column(server_default="0")
    reserved_bytes: Mapped[int] = mapped_column(server_default="0")
    stored_bytes: Mapped[int] = mapped_column(server_default="0")
    requests: Mapped[int] = mapped_column(server_default="0")
    token: Mapped[uuid.UUID | None]
    worker_id: Mapped[uuid.UUID | None]
    lease_until: Mapped[dt.datetime | None]
    deadline: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime | None]
    losses: Mapped[int] = count()
    errors: Mapped[int] = count()
    marks: Mapped[object | None] = mapped_column(JSON)
    ready_at: Mapped[dt.datetime | None]
    claimed_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]


class FetchJob(Base):
    """The outcome of a row's fetch; an open row has none."""

    __tablename__ = "fetch_jobs"
    __table_args__ = (
        CheckConstraint("state IN ('done', 'no_data', 'failed')", name="state"),
        CheckConstraint("(error_class IS NOT NULL) = (state = 'failed')", name="error_class"),
        {"postgresql_partition_by": "LIST (run_id)"},
    )

    run_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    group_index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    error_class: Mapped[str | None]


class InferJob(Base):
    """A shard of one model, and the file it became. ``wanted``: slots to redo in that file; None: all of it."""

    __tablename__ = "infer_jobs"
    __table_args__ = (
        one_of("state", ShardState),
        Index(
            "ix_infer_jobs_ready", "run_id", "model_index", "ready_at", "shard",
            postgresql_where=text("state = 'ready'"),
        ),
        Index("ix_infer_jobs_leased", "run_id", postgresql_where=text("state = 'leased'")),
        Index(
            "ix_infer_jobs_open", "run_id", "shard",
            postgresql_where=text("state IN ('waiting', 'ready', 'leased')"),
        ),
        HOT,
    )  # fmt: skip

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    model_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    shard: Mapped[int] = mapped_column(Integer, primary_key=True)
    group_index: Mapped[int] = mapped_column(Integer)
    state: Mapped[str]
    generation: Mapped[int] = count()
    first_seq: Mapped[int]
    n_rows: Mapped[int] = mapped_column(Integer)
    wanted: Mapped[list[int] | None]
    token: Mapped[uuid.UUID | None]
    worker_id: Mapped[uuid.UUID | None]
    lease_until: Mapped[dt.datetime | None]
    deadline: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime | None]
    losses: Mapped[int] = count()
    errors: Mapped[int] = count()
    marks: Mapped[object | None] = mapped_column(JSON)
    ready_at: Mapped[dt.datetime | None]
    claimed_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]
    ok_rows: Mapped[int] = count()
    low_quality_rows: Mapped[int] = count()
    no_data_rows: Mapped[int] = count()
    failed_rows: Mapped[int] = count()
    name: Mapped[str | None]
    file_rows: Mapped[int | None]
    file_bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    etag: Mapped[str | None]
    counts: Mapped[object | None] = mapped_column(JSON)
    row_failures: Mapped[object | None] = mapped_column(JSON)
    requests: Mapped[int] = mapped_column(server_default="0")
    batch_size: Mapped[int | None] = mapped_column(Integer)
    commit_no: Mapped[int | None]


class Part(Base):
    """A file compacted from several shards of a model."""

    __tablename__ = "parts"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    model_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    part_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    first_seq: Mapped[int]
    name: Mapped[str]
    file_rows: Mapped[int]
    file_bytes: Mapped[int]
    sha256: Mapped[str]
    counts: Mapped[object] = mapped_column(JSON)
    row_failures: Mapped[object] = mapped_column(JSON)
    requests: Mapped[int] = mapped_column(server_default="0")
    batch_size: Mapped[int | None] = mapped_column(Integer)
    commit_no: Mapped[int]
