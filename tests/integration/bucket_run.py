"""A run driven as the fleet drives it, shard by shard, into any output; for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from rsembed.core.patch import Json
from rsembed.pipelines.checkpoint import PartRecord
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.finish import finish_run
from rsembed.pipelines.inference import InferenceEngine, unit_source
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.plan import RunPlan, fingerprint
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.retry import RetryPolicy
from rsembed.pipelines.rows.table import RowTable
from rsembed.pipelines.run_output import RunOutput
from rsembed.pipelines.run_state import RunShape, RunState
from rsembed.pipelines.shard_table import model_schema
from rsembed.pipelines.shard_writer import earlier_rows, write_shard
from rsembed.providers.base import ProviderBase


class LastRecords:
    """A CheckpointManager that keeps the last record of each file only, in the order of their commits."""

    def __init__(self) -> None:
        self._kept: dict[str, PartRecord] = {}

    def records(self) -> tuple[PartRecord, ...]:
        return tuple(self._kept.values())

    def commit(self, record: PartRecord) -> None:
        self._kept.pop(record.name, None)
        self._kept[record.name] = record

    def close(self) -> None:
        pass


@dataclass
class BucketRun:
    """A run of ``plan`` over ``table`` into ``output``."""

    plan: RunPlan
    table: RowTable
    output: RunOutput
    packs: Path
    checkpoint: LastRecords = field(default_factory=LastRecords)
    still_ours: Callable[[], bool] = lambda: False

    @property
    def shape(self) -> RunShape:
        return RunShape(self.table.n_rows, self.plan.config.shard_size, self.plan.config.shards_per_part)

    @property
    def description(self) -> Mapping[str, Json]:
        table = self.table
        rows = {"count": table.n_rows, "digest": table.digest, "windows_within": str(table.span)}
        return dict(self.plan.describe()) | {"rows": rows}

    @property
    def fingerprint(self) -> str:
        return fingerprint(dict(self.description), self.table.digest)

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        return {m.label: model_schema(self.plan, m, self.table.carried, self.fingerprint) for m in self.plan.models}

    def state(self) -> RunState:
        return RunState(self.output.store, self.shape, self.checkpoint)

    def units(self, wanted: Callable[[str, int], Sequence[int]]) -> Iterator[tuple[FetchUnit, InputPack]]:
        for index in range(self.shape.n_shards):
            shard = self.table.shard(index, self.shape.shard_size)
            for group in self.plan.groups:
                slots = {m.label: found for m in group.models if (found := tuple(wanted(m.label, index)))}
                if slots:
                    unit = FetchUnit(
                        group, index, shard, slots, self.plan.group_digest(group), self.plan.config.buffer_m
                    )
                    yield unit, InputPack(self.packs / f"{group.index}-{index}")

    def work(self, provider: ProviderBase, wanted: Callable[[str, int], Sequence[int]] | None = None) -> None:
        """Fetch, embed and write what is wanted of each model and shard (default: what is open)."""
        self.output.claim(self.fingerprint, self.description)
        state = self.state()
        etags = {blob.name: blob.etag for blob in self.output.store.list()}
        prefetch = PrefetchManager(provider, workers=3, retry=RetryPolicy(max_attempts=1))
        engine = InferenceEngine(threads=1, min_valid_fraction=self.plan.config.min_valid_fraction)
        units = self.units(wanted or state.open_slots)
        for fetched in prefetch.run(units, shard_size=self.shape.shard_size):
            for model in fetched.unit.group.models:
                if model.label not in fetched.unit.wanted:
                    continue
                source = unit_source(model, fetched, partial(prefetch.fetch_again, fetched))
                outcome = engine.run(model, len(fetched.unit.shard), source)
                before = state.shard(model.label, fetched.unit.index)
                record, _ = write_shard(
                    self.output,
                    fetched.unit,
                    model,
                    outcome,
                    self.schemas[model.label],
                    requests=fetched.requests,
                    earlier=earlier_rows(self.output, self.shape, before) if before else None,
                    replaces=etags[before.name] if before and before.name in etags else None,
                    still_ours=self.still_ours,
                )
                self.checkpoint.commit(record)
            prefetch.release(fetched)

    def finish(self, *, npz: bool = True, zarr: bool = False, before_write: Callable[[], None] = lambda: None) -> None:
        finish_run(
            self.state(), self.output, self.plan, self.schemas, description=self.description,
            fingerprint=self.fingerprint, npz=npz, zarr=zarr, before_write=before_write,
        )  # fmt: skip


def contents(output: RunOutput, *, without: Iterable[str] = ()) -> dict[str, bytes]:
    """Every file of an output by name."""
    return {blob.name: output.read(blob.name) or b"" for blob in output.store.list() if blob.name not in without}
