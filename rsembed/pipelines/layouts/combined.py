"""One file with the arrays of all items and models, and the manifest that says what stands in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.patch import Json
from rsembed.pipelines.layouts.entries import Entries, Manifest, array_sha1, status_of
from rsembed.pipelines.layouts.items import Items, window_json
from rsembed.pipelines.layouts.outcomes import HiddenRun, ModelOutcome
from rsembed.pipelines.layouts.per_item import dims_of
from rsembed.pipelines.layouts.statuses import row_status
from rsembed.pipelines.plan import RunPlan
from rsembed.writers.array_file import SpilledArrays, array_key

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputPlan:
    """How the pixels of one model are stored.

    ``shape``: of every item's, None where they differ. ``shares``: the label of the model whose
    arrays hold just the same pixels, else its own.
    """

    shape: Shape | None
    shares: str


def plan_inputs(runs: Sequence[HiddenRun], labels: Sequence[str]) -> dict[str, InputPlan]:
    """Shapes and sharing of all pixels, told before one is read."""
    shapes: dict[str, set[Shape]] = {label: set() for label in labels}
    alike = {label: hashlib.sha256() for label in labels}
    for run in runs:
        for shard in range(run.n_shards):
            for label, rows in run.inputs(shard).items():
                shapes[label].update(shape for shape, _ in rows)
                alike[label].update(repr(rows).encode())
    owners: dict[str, str] = {}
    found = {}
    for label in labels:
        owner = owners.setdefault(alike[label].hexdigest(), label)
        found[label] = InputPlan(next(iter(shapes[label])) if len(shapes[label]) == 1 else None, owner)
    return found


@dataclass
class Column:
    """The arrays of one kind (pixels or vectors) of one model, as they come in.

    ``shape``: of every item's, None where they differ: then each is an array of its own.
    """

    dense_key: str
    single_key: str
    n_items: int
    shape: Shape | None
    dtype: np.dtype[Any]
    arrays: SpilledArrays
    there: dict[int, Mapping[str, Json]] = field(default_factory=dict)

    def put(self, index: int, array: NDArray[Any]) -> None:
        """Keep what belongs to item ``index``."""
        if self.shape is None:
            key = f"{self.single_key}__{index:05d}"
            self.arrays.add(key, dims_of(key, array.ndim), array)
            self.there[index] = {"shape": list(array.shape), "sha1": array_sha1(array)}
            return
        shape = (self.n_items, *self.shape)
        dims = dims_of(self.dense_key, len(shape))
        self.arrays.rows(self.dense_key, dims, shape, self.dtype)[index] = array
        self.there[index] = {}

    def entry(self) -> Manifest | None:
        """What the manifest says of it; None where nothing came."""
        if not self.there:
            return None
        if self.shape is not None:
            shape = [self.n_items, *self.shape]
            sha1 = self.arrays.sha1(self.dense_key)
            return {"npz_key": self.dense_key, "shape": shape, "dtype": str(self.dtype), "sha1": sha1}
        indices = sorted(self.there)
        return {
            "npz_keys": [f"{self.single_key}__{index:05d}" for index in indices],
            "indices": indices,
            "dtype": str(self.dtype),
            "shapes": [self.there[index]["shape"] for index in indices],
            "sha1s": [self.there[index]["sha1"] for index in indices],
        }


@dataclass
class _ModelColumns:
    """What is gathered of one model over all items."""

    inputs: Column | None
    vectors: Column | None
    metas: list[Manifest | None]
    errors: dict[int, str] = field(default_factory=dict)
    stages: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    unsettled: bool = False


class CombinedRendering:
    """Gathers the outcomes of all items into arrays and one manifest."""

    def __init__(
        self, plan: RunPlan, items: Items, entries: Entries, arrays: SpilledArrays, runs: Sequence[HiddenRun]
    ) -> None:
        self._plan, self._items, self._entries, self._arrays = plan, items, entries, arrays
        labels = [model.label for model in plan.models]
        config = plan.config
        # The pixels of a product are the embedding itself.
        imagery = {model.label: model.embedder.card.kind != "precomputed" for model in plan.models}
        self._inputs = plan_inputs(runs, labels) if config.save_inputs else {}
        self._models: dict[str, _ModelColumns] = {}
        for label in labels:
            inputs = self._inputs.get(label)
            vectors = None
            if config.save_embeddings:
                shapes = {shape for run in runs for shape in run.vector_shapes(label)}
                shape = shapes.pop() if len(shapes) == 1 else None
                vectors = self._column("embeddings", "embedding", label, shape, np.dtype(config.dtype))
            pixels = None
            if inputs is not None and inputs.shares == label and imagery[label]:
                pixels = self._column("inputs_bchw", "input_chw", label, inputs.shape, np.dtype(np.float32))
            self._models[label] = _ModelColumns(pixels, vectors, [None] * len(items))

    def _column(self, dense: str, single: str, label: str, shape: Shape | None, dtype: np.dtype[Any]) -> Column:
        key = array_key(label)
        return Column(f"{dense}__{key}", f"{single}__{key}", len(self._items), shape, dtype, self._arrays)

    def take(self, index: int, outcome: ModelOutcome) -> None:
        """Keep what became of item ``index`` for one model."""
        columns = self._models[outcome.model.label]
        inspection = self._entries.inspection(outcome)
        error = self._entries.error(outcome, inspection)
        if columns.inputs is not None:
            array = outcome.input.array()
            if array is not None:
                columns.inputs.put(index, array)
        if columns.vectors is not None:
            columns.metas[index] = self._entries.meta(outcome, window_json(self._items.window(index)))
            if error is None and outcome.vector is not None:
                columns.vectors.put(index, outcome.vector)
        status = "ok" if error is None else "failed"
        columns.counts[row_status({"status": status, "row_status": outcome.status.value})] += 1
        if error is not None:
            columns.errors[index] = error
            columns.stages[index] = "fetch" if outcome.failure is None else outcome.failure.stage
            columns.unsettled |= not self._entries.is_settled(outcome)

    def model_entries(self) -> Iterator[Manifest]:
        """The entries of the manifest, in the order of the request."""
        for label, columns in self._models.items():
            failed = sorted(columns.errors)
            everything = len(failed) == len(self._items)
            entry: Manifest = self._entries.model(label) | {
                "status": "ok" if not failed else "failed" if everything else "partial",
                "inputs": self._input_entry(label),
                "embeddings": None if columns.vectors is None else columns.vectors.entry(),
                "metas": None if columns.vectors is None else columns.metas,
                "counts": dict(columns.counts),
            }
            if failed:
                entry["failed_indices"] = failed
                entry["errors_by_index"] = {str(index): columns.errors[index] for index in failed}
                entry["stages_by_index"] = {str(index): columns.stages[index] for index in failed}
            if everything:
                entry["error"] = columns.errors[failed[0]]
            yield entry

    def _input_entry(self, label: str) -> Manifest | None:
        if label not in self._inputs:
            return None
        owner = self._inputs[label].shares
        column = self._models[owner].inputs
        entry = None if column is None else column.entry()
        return None if entry is None else entry | {"dedup_reused": owner != label}

    @property
    def unsettled(self) -> bool:
        """Whether the same call would try something again."""
        return any(columns.unsettled for columns in self._models.values())


def combined_manifest(head: Manifest, items: Items, models: list[Manifest]) -> Manifest:
    """The manifest of all items."""
    count = {status: sum(entry["status"] == status for entry in models) for status in ("ok", "partial", "failed")}
    windows = items.common_window()
    manifest = head | {
        "stage": "done",
        "resume_incomplete": False,
        "status": status_of(models),
        "n_items": len(items),
        "models": models,
        "spatials": [items.spatial_json(index) for index in range(len(items))],
        "ids": items.ids(),
        "temporal": window_json(windows),
        "prefetch": {},
        "summary": {
            "total_models": len(models),
            "failed_models": count["failed"],
            "partial_models": count["partial"],
            "ok_models": count["ok"],
        },
    }
    if windows is None:
        manifest["temporals"] = [window_json(items.window(index)) for index in range(len(items))]
    return manifest
