"""A run as a worker holds it: its plan, source of imagery and rows; kept from one ticket to the next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from rsembed.core.patch import Json
from rsembed.core.serialization import digest
from rsembed.core.settings import Settings
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.plan import FetchGroup, ModelPlan, RunPlan
from rsembed.pipelines.rows.shard import RowShard
from rsembed.pipelines.run_output import RunOutput
from rsembed.pipelines.run_state import RunShape
from rsembed.pipelines.shard_table import model_schema
from rsembed.providers.base import ProviderBase
from rsembed.writers.store import open_store
from workers.ledger.records import RunRecord
from workers.ledger.repository import Ledger
from workers.spec import RunSpec
from workers.stored_rows import row_shard

KEPT_RUNS = 16
"""Plans that a worker keeps at a time."""


def throttle_key(backend: str, provider: Json) -> str:
    """The name of the throttle of a source; ``provider``: what it said of itself when the run was planned."""
    return f"{backend}:{digest(provider)[:16]}"


@dataclass
class LoadedRun:
    """One run, planned again from the ledger's spec exactly as it was submitted."""

    record: RunRecord
    spec: RunSpec
    plan: RunPlan
    _settings: Settings
    _scratch: Path
    _schemas: dict[str, pa.Schema] = field(default_factory=dict, repr=False)
    _provider: ProviderBase | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def provider(self) -> ProviderBase:
        """The run's source of imagery, opened at first use. Raises ProviderError."""
        with self._lock:
            if self._provider is None:
                # So that a run's cost can be read from the cloud's own metrics.
                tagged = replace(self._settings, ee_workload_tag=f"rsembed-{self.record.id}")
                self._provider = self.spec.open_provider(tagged)
            return self._provider

    @property
    def throttle_key(self) -> str:
        """Who shares the provider's quota with this run: whoever asks the same source."""
        return throttle_key(self.spec.provider.backend, self.plan.provider)

    @property
    def shape(self) -> RunShape:
        """How the rows are cut."""
        return RunShape(self.record.n_rows, self.record.shard_size, self.record.shards_per_part)

    @cached_property
    def output(self) -> RunOutput:
        """Where the run's files go."""
        return RunOutput(open_store(self.record.output, scratch=self._scratch))

    def schema(self, label: str) -> pa.Schema:
        """Schema and metadata of a model's dataset."""
        if label not in self._schemas:
            model = next(model for model in self.plan.models if model.label == label)
            self._schemas[label] = model_schema(self.plan, model, self.spec.schema, self.record.fingerprint)
        return self._schemas[label]

    @cached_property
    def _digests(self) -> Mapping[int, str]:
        return {group.index: self.plan.group_digest(group) for group in self.plan.groups}

    def group(self, index: int) -> FetchGroup:
        """The fetch group of that number."""
        return self.plan.groups[index]

    def model(self, label: str) -> ModelPlan:
        """The model of that label."""
        return next(model for model in self.plan.models if model.label == label)

    def group_of(self, label: str) -> FetchGroup:
        """The fetch group that serves a model."""
        return next(group for group in self.plan.groups if any(model.label == label for model in group.models))

    def input_key(self, group: int, shard: int) -> str:
        """Where the input store keeps the patches of a unit."""
        return f"{self.record.groups[group].input_key}/{shard:06d}"

    def rows(self, ledger: Ledger, shard: int) -> RowShard:
        """The rows of a shard."""
        size = self.record.shard_size
        stored = ledger.stored_rows(self.record.id, shard * size, min(size, self.record.n_rows - shard * size))
        return row_shard(stored, self.spec.schema, index=shard)

    def unit(self, group: FetchGroup, rows: RowShard, slots: Sequence[int], label: str | None = None) -> FetchUnit:
        """What is to be fetched for ``slots``: for every model of the group, or for ``label`` alone.

        The pixels are those of the whole group either way.
        """
        labels = [model.label for model in group.models] if label is None else [label]
        wanted = {name: tuple(slots) for name in labels}
        return FetchUnit(group, rows.index, rows, wanted, self._digests[group.index], self.plan.config.buffer_m)

    def close(self) -> None:
        """Release the source of imagery."""
        if self._provider is not None:
            self._provider.close()


class RunCache:
    """Runs by number, planned once each. Safe to share between threads.

    ``scratch``: folder for files on their way to a bucket. ``device``: of a worker that embeds.
    """

    def __init__(self, ledger: Ledger, settings: Settings, scratch: Path, *, device: str | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        self._scratch = scratch
        self._device = device
        self._lock = threading.Lock()
        self._runs: OrderedDict[tuple[int, str | None], LoadedRun] = OrderedDict()

    def get(self, run: int, label: str | None = None) -> LoadedRun:
        """The run; with ``label``, with that model's weights found.

        Raises PlanMismatchError, ModelError or WeightsError where this worker cannot do what was submitted.
        """
        key = (run, label)
        with self._lock:
            found = self._runs.get(key)
            if found is not None:
                self._runs.move_to_end(key)
                return found
            record = self._ledger.run(run)
            spec = RunSpec.from_json(record.spec)
            device = None if label is None else self._device
            labels = None if label is None else {label}
            plan = spec.plan(self._settings, label is not None, device=device, labels=labels)
            found = self._runs[key] = LoadedRun(record, spec, plan, self._settings, self._scratch)
            while len(self._runs) > KEPT_RUNS:
                self._runs.popitem(last=False)[1].close()
            return found
