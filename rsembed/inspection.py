"""What a sensor or a model would be given at a place, as plain numbers; nothing is embedded, no weights are loaded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsembed.api import get_provider
from rsembed.core.card import OptionValue, Recipe
from rsembed.core.errors import SpecError
from rsembed.core.patch import Patch
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, PointBuffer, SensorSpec, Spatial, TemporalSpec, Window
from rsembed.pipelines.inspection import fetch_row, plan_sensor, report_patch
from rsembed.pipelines.plan import plan_run
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.providers.base import ProviderBase
from rsembed.quicklook import save_quicklook
from rsembed.tools.temporal import last_complete_year
from rsembed.tools.tiling import Context


def inspect_provider_patch(
    *,
    spatial: Spatial,
    temporal: TemporalSpec | None = None,
    sensor: SensorSpec,
    backend: str | ProviderBase = "auto",
    catalog: str | Path | None = None,
    recipe: Recipe = "authors",
    return_array: bool = False,
    save_dir: str | Path | None = None,
) -> dict[str, Any]:
    """What ``sensor`` gives at ``spatial``: a JSON report of grid, frames and bands.

    ``temporal`` None: the last complete year. ``return_array`` adds ``array_tchw`` (float32, raw
    provider values) and ``valid_tchw`` (bool). ``save_dir``: write ``patch.npz`` and ``quicklook.png``.
    Raises SpecError for a point without a buffer, ProviderError when imagery cannot be had.
    """
    if isinstance(spatial, PointBuffer) and spatial.buffer_m is None:
        raise SpecError("a point needs buffer_m here: without a model there is no native footprint")
    provider = get_provider(backend, catalog=catalog)
    window = _window(temporal)
    plan = plan_sensor(sensor, provider, recipe=recipe, about=provider.describe())
    row = fetch_row(plan, spatial, window, provider)
    collection = plan.groups[0].recipe.collection
    report: dict[str, Any] = {
        "sensor": to_json(sensor),
        "fetch": to_json(plan.groups[0].recipe),
        "backend": provider.name,
        "recipe": recipe,
    }
    return _finished(report, row.patch, collection, (spatial, window), return_array, save_dir)


def inspect_model_input(
    model: str,
    *,
    spatial: Spatial,
    temporal: TemporalSpec | None = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    backend: str | ProviderBase = "auto",
    catalog: str | Path | None = None,
    recipe: Recipe = "authors",
    context: Context | None = None,
    return_arrays: bool = False,
    save_dir: str | Path | None = None,
    **options: OptionValue,
) -> dict[str, Any]:
    """What ``model`` would be given at ``spatial``, before its own preprocessing; a JSON report.

    Planned and fetched as a run would, so the pixels are those of a run. ``options``: the model's
    own. For the rest see :func:`inspect_provider_patch`.
    """
    provider = get_provider(backend, catalog=catalog)
    window = _window(temporal)
    asked = ExportModelRequest(model, sensor, fetch, modality, options)
    request = RunRequest((asked,), config=ExportConfig(recipe=recipe, context=context))
    plan = plan_run(request, provider, Settings.from_environment())
    planned = plan.models[0]
    row = fetch_row(plan, spatial, window, provider)
    footprint = row.footprint
    report: dict[str, Any] = {
        "model": planned.embedder.card.id,
        "options": to_json(planned.embedder.config.options),
        "modality": planned.embedder.config.modality,
        "sensor": to_json(planned.embedder.contract),
        "fetch": to_json(planned.recipe),
        "backend": row.patch.provenance.get("backend", provider.name),
        "recipe": recipe,
        "asked_px": [footprint.asked_height, footprint.asked_width],
        "native_px": planned.native_px,
        "forwards": footprint.forwards,
        "n_frames": len(row.patch.frames),
        "n_empty": sum(not frame.n_images for frame in row.patch.frames),
    }
    return _finished(report, row.patch, planned.recipe.collection, (spatial, window), return_arrays, save_dir)


def _window(temporal: TemporalSpec | None) -> Window:
    return last_complete_year(dt.datetime.now(dt.UTC).date()) if temporal is None else temporal.window


def _finished(
    about: Mapping[str, Any],
    patch: Patch,
    collection: str,
    where: tuple[Spatial, Window],
    return_array: bool,
    save_dir: str | Path | None,
) -> dict[str, Any]:
    """``about`` with the patch's report, artifacts and, if asked for, its arrays."""
    spatial, window = where
    report = report_patch(patch, collection)
    found: dict[str, Any] = {
        "ok": report.ok,
        **about,
        "spatial": to_json(spatial),
        "temporal": {"start": window.start.isoformat(), "end": window.end.isoformat()},
        "report": to_json(report),
        "warnings": list(report.warnings),
        "artifacts": [] if save_dir is None else [str(path) for path in save_patch(patch, Path(save_dir), collection)],
    }
    if return_array:
        found |= {"array_tchw": patch.values_tchw, "valid_tchw": patch.valid_tchw}
    return found


def save_patch(patch: Patch, folder: Path, collection: str) -> list[Path]:
    """Write ``patch.npz`` and ``quicklook.png`` into ``folder``; returns their paths.

    The npz holds values_tchw, valid_tchw, bands, transform (a, b, c, d, e, f), epsg, frame_dates (ISO
    text, empty for an empty frame). Raises SpecError without matplotlib, the npz already written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = folder / "patch.npz"
    np.savez_compressed(
        arrays,
        values_tchw=patch.values_tchw,
        valid_tchw=patch.valid_tchw,
        bands=np.array(patch.bands, dtype=str),
        transform=np.array(patch.grid.transform, dtype=np.float64),
        epsg=np.array(patch.grid.epsg),
        frame_dates=np.array(["" if f.date is None else f.date.isoformat() for f in patch.frames], dtype=str),
    )
    return [arrays, save_quicklook(patch, folder / "quicklook.png", f"{collection}, {patch.grid.scale_m:g} m")]
