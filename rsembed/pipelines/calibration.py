"""The steps of a dataset in int8: fixed once, from a sample of the run's own rows, before the first is written.

Sampled rows keep their slots and packs, so that the run proper asks for nothing twice and the sample's vectors are
the run's to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.inference import InferenceEngine, unit_source
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import ModelPlan, RunPlan, with_models
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.rows.table import RowTable
from rsembed.pipelines.run_output import QUANTIZATION
from rsembed.tools.quantization import fit_scales, measure

SAMPLE_ROWS = 128
"""Evenly spaced along ``seq``, and so over the ground."""
_CELLS_OF_A_MAP = 64


@dataclass(frozen=True)
class Calibration:
    """``plan`` with steps for every model; what finding them cost."""

    plan: RunPlan
    requests: int = 0
    forwards: int = 0


def calibrate(
    plan: RunPlan, table: RowTable, folder: OutputFolder, prefetch: PrefetchManager, engine: InferenceEngine
) -> Calibration:
    """Give the models of ``plan`` that lack them the steps of this run, from its folder or from a sample.

    Raises ExportError when no row of the sample has an embedding.
    """
    known = _read(folder)
    lacking = [m.label for m in plan.models if m.steps is None and m.label not in known]
    requests = forwards = 0
    if lacking:
        found: dict[str, dict[int, list[NDArray[np.float32]]]] = {label: {} for label in lacking}
        try:
            for fetched in prefetch.run(_units(plan, table, folder, lacking), shard_size=plan.config.shard_size):
                requests += fetched.requests
                for model in fetched.unit.group.models:
                    if model.label not in fetched.unit.wanted:
                        continue
                    source = unit_source(model, fetched, partial(prefetch.fetch_again, fetched))
                    outcome = engine.run(model, len(fetched.unit.shard), source)
                    forwards += outcome.forwards
                    vectors = [_cells(vector) for vector in outcome.vectors if vector is not None]
                    found[model.label][fetched.unit.index] = vectors
                prefetch.release(fetched)
        finally:
            prefetch.stop()
        # Units settle in any order, and sums of the same numbers in another order are not the same.
        ordered = {
            label: [v for _, vectors in sorted(sample.items()) for v in vectors] for label, sample in found.items()
        }
        known = known | {label: _fitted(label, sample) for label, sample in ordered.items()}
        folder.write_json(QUANTIZATION, known)
    models = [replace(m, steps=m.steps or _steps(known, m)) for m in plan.models]
    return Calibration(with_models(plan, models), requests, forwards)


def _units(
    plan: RunPlan, table: RowTable, folder: OutputFolder, labels: list[str]
) -> Iterator[tuple[FetchUnit, InputPack]]:
    """The sampled rows, in the units and packs that they have in the run."""
    size = plan.config.shard_size
    seqs = np.unique(np.linspace(0, table.n_rows - 1, min(SAMPLE_ROWS, table.n_rows)).round().astype(np.int64))
    for index in np.unique(seqs // size).tolist():
        slots = tuple((seqs[seqs // size == index] % size).tolist())
        for group in plan.groups:
            wanted = {model.label: slots for model in group.models if model.label in labels}
            if wanted:
                shard = table.shard(index, size)
                unit = FetchUnit(group, index, shard, wanted, plan.group_digest(group), plan.config.buffer_m)
                yield unit, InputPack(folder.pack(f"group-{group.index}", index))


def _cells(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector, or some vectors of a map, as (N, D)."""
    flat = vector.reshape(len(vector), -1).T
    return flat[:: -(-len(flat) // _CELLS_OF_A_MAP)]


def _fitted(label: str, sample: list[NDArray[np.float32]]) -> dict[str, Json]:
    if not sample:
        raise ExportError(
            f"{label}: none of the sampled rows has an embedding, so there is nothing to fix the steps of int8 from; "
            "export with dtype='float16'"
        )
    vectors = np.concatenate(sample)
    steps = fit_scales(vectors)
    return {
        "step": [float(step) for step in steps],
        "sample_rows": len(sample),
        "error": asdict(measure(vectors, steps)),
    }


def _read(folder: OutputFolder) -> dict[str, dict[str, Json]]:
    text = folder.read(QUANTIZATION)
    try:
        return {} if text is None else dict(json.loads(text))
    except (ValueError, TypeError) as exc:
        raise ExportError(f"{folder.root}/{QUANTIZATION} is damaged ({exc}); export into a new folder") from exc


def _steps(known: Mapping[str, Mapping[str, Json]], model: ModelPlan) -> tuple[float, ...]:
    found = known[model.label].get("step")
    if not isinstance(found, list) or len(found) != model.embedder.dim:
        raise ExportError(
            f"{QUANTIZATION} has no {model.embedder.dim} steps for {model.label}; export into a new folder"
        )
    return tuple(float(step) for step in found)
