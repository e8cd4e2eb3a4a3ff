"""Manifests of the layouts: what stands where, how it came about, and what went wrong; plain JSON.

Names of keys follow the reference system, so that its readers find what they look for.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import RowStatus
from rsembed.core.patch import Json
from rsembed.core.serialization import to_json
from rsembed.core.specs import OutputSpec
from rsembed.embedders.describe import describe_model_class
from rsembed.pipelines.layouts.outcomes import ModelOutcome
from rsembed.pipelines.layouts.statuses import SETTLED
from rsembed.pipelines.patch_report import report_patch
from rsembed.pipelines.plan import ModelPlan, RunPlan
from rsembed.version import __version__

Manifest = dict[str, Any]
"""JSON at the edge."""


def utc_now() -> str:
    """The time now, ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def array_sha1(array: NDArray[Any]) -> str:
    """Hex sha1 over dtype, shape and all bytes in C order."""
    found = hashlib.sha1(f"{array.dtype}{tuple(array.shape)}".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def array_entry(key: str, array: NDArray[Any]) -> dict[str, Any]:
    """Where an array stands and what it is."""
    return {"npz_key": key, "dtype": str(array.dtype), "shape": list(array.shape), "sha1": array_sha1(array)}


def manifest_text(manifest: Manifest) -> str:
    """``manifest`` as JSON text; numbers that JSON has no word for become null."""
    try:
        return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(finite(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:  # JSON at the edge
    """``value`` with null for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class Entries:
    """Makes the entries of one run's models."""

    def __init__(self, plan: RunPlan, output: OutputSpec) -> None:
        config = plan.config
        about = plan.provider if isinstance(plan.provider, Mapping) else {}
        self.backend = about.get("backend")
        self.output: Json = to_json(output)
        self._check = config.fail_on_bad_input
        self._needs_vector = config.save_embeddings
        self._constant = {
            model.label: {
                "model": model.label,
                "sensor": to_json(model.embedder.contract),
                "describe": describe_model_class(type(model.embedder)),
            }
            for model in plan.models
        }
        self._meta = {model.label: self._model_meta(model, config.prep.mode) for model in plan.models}

    def head(self, device: str) -> Manifest:
        """What every manifest begins with."""
        return {
            "created_at": utc_now(),
            "backend": self.backend,
            "device": device,
            "output": self.output,
            "package_version": __version__,
        }

    def model(self, label: str) -> Manifest:
        """What is the same for all items of a model."""
        return dict(self._constant[label])

    def has(self, label: str) -> bool:
        """Whether there is a model of that label."""
        return label in self._constant

    def _model_meta(self, model: ModelPlan, prep: str) -> Manifest:
        card, config = model.embedder.card, model.embedder.config
        return {
            "model": card.id,
            "type": card.kind,
            "backend": self.backend,
            "source": card.source,
            "options": to_json(config.options),
            "recipe": config.recipe,
            "modality": config.modality,
            "image_size": model.native_px,
            "input_prep": {"requested_mode": prep},
            "context": config.context,
            "precision": config.precision,
            "device": model.device,
            "weights": None if model.weights is None else model.weights.to_json(),
        }

    def meta(self, outcome: ModelOutcome, temporal: Json) -> Manifest:
        """What is known about one embedding, as in ``Embedding.meta``."""
        grid = None if outcome.cells is None else {"epsg": outcome.epsg, "transform": list(outcome.cells)}
        return {
            **self._meta[outcome.model.label],
            "temporal": temporal,
            "status": outcome.status.value,
            "n_images": outcome.n_images,
            "valid_fraction": finite(outcome.valid_fraction),
            "frame_dates": to_json(outcome.frame_dates),
            "n_bins": len(outcome.frame_dates),
            "n_frames": sum(day is not None for day in outcome.frame_dates),
            "first_date": to_json(outcome.first_date),
            "last_date": to_json(outcome.last_date),
            "scene_ids": list(outcome.scene_ids),
            "grid": grid,
        }

    def fetch_meta(self, outcome: ModelOutcome) -> Manifest:
        """What was fetched, and the ground it covers."""
        grid = outcome.input.grid
        return {
            "collection": outcome.model.recipe.collection,
            "bands": list(outcome.model.bands),
            "epsg": grid.epsg,
            "transform": list(grid.transform),
            "height": grid.height,
            "width": grid.width,
            "scale_m": grid.scale_m,
        }

    def inspection(self, outcome: ModelOutcome) -> Manifest | None:
        """What is odd about the pixels; None where nobody asked."""
        patch = outcome.input.patch() if self._check else None
        if patch is None:
            return None
        report = report_patch(patch, outcome.model.recipe.collection)
        # An empty bin of a series is no fault of the pixels.
        issues = [text for text in report.warnings if not text.endswith("has no imagery")]
        return {"ok": report.ok and not issues, "report": {"issues": issues, "valid_fraction": report.valid_fraction}}

    def is_settled(self, outcome: ModelOutcome) -> bool:
        """Whether a result that is not there would not be there the next time."""
        return outcome.status.value in SETTLED

    def error(self, outcome: ModelOutcome, inspection: Manifest | None) -> str | None:
        """Why there is no result; None where there is one."""
        if outcome.failure is not None:
            return outcome.failure.message
        collection = outcome.model.recipe.collection
        if outcome.status is RowStatus.NO_DATA:
            return f"ProviderError: No images found in {collection} for this place and window, or all of it is masked"
        if outcome.status is RowStatus.COLLECTION_GAP:
            return f"CollectionGapError: {collection} has a known hole here"
        if outcome.status is RowStatus.FAILED or (self._needs_vector and outcome.vector is None):
            return "unknown reason"
        if inspection is not None and not inspection["ok"]:
            return f"Input inspection failed: {'; '.join(inspection['report']['issues']) or 'nothing is valid'}"
        return None


def status_of(entries: Sequence[Manifest]) -> str:
    """``ok``, ``partial`` or ``failed``, over entries of models."""
    found = [entry["status"] for entry in entries]
    if all(status == "ok" for status in found):
        return "ok"
    return "failed" if all(status == "failed" for status in found) else "partial"


def is_combined_settled(manifest: Manifest) -> bool:
    """Whether asking again would change nothing in a combined manifest."""
    return manifest.get("unsettled") is False and not manifest.get("resume_incomplete")


def is_settled(entries: object) -> bool:
    """Whether asking again would change nothing in the entries of an item's models."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and (entry.get("status") == "ok" or entry.get("row_status") in SETTLED)
        for entry in entries
    )
