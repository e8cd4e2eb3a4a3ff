"""What a sensor or a model would be given at a place, as plain numbers; nothing is embedded, no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsembed.api import get_provider
from rsembed.core.card import OptionValue, Recipe
from rsembed.core.errors import ArgumentError, SpecError
from rsembed.core.notices import warn_user
from rsembed.core.patch import Patch
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, PointBuffer, SensorSpec, Spatial, TemporalSpec, Window
from rsembed.pipelines.calls import window_notes
from rsembed.pipelines.inspection import fetch_row, plan_sensor
from rsembed.pipelines.keywords import Backend, CallSettings, InputPrep, checked_spatials, resolved_window
from rsembed.pipelines.patch_report import frame_summary, report_patch
from rsembed.pipelines.plan import plan_run
from rsembed.plots.quicklook import save_quicklook
from rsembed.tools.tiling import Context


def inspect_provider_patch(
    *,
    spatial: Spatial,
    temporal: TemporalSpec | None = None,
    sensor: SensorSpec,
    backend: Backend | None = "auto",
    catalog: str | Path | None = None,
    recipe: Recipe = "authors",
    value_range: tuple[float, float] | None = None,
    return_array: bool = False,
    save_dir: str | Path | None = None,
) -> dict[str, Any]:
    """What ``sensor`` gives at ``spatial``: a JSON report of grid, frames and bands.

    ``temporal`` None: the last complete year. Bands are told by minimum, maximum, mean, spread, percentiles, and
    the shares that are valid, zero and saturated; ``warnings`` say what is odd. ``value_range``: warn of values
    beyond it. ``return_array`` adds ``array_tchw`` (float32, raw provider values) and ``valid_tchw`` (bool).
    ``save_dir``: write ``patch.npz`` and ``quicklook.png``.

    Raises SpecError for a point without a buffer, ProviderError when imagery cannot be had.
    """
    look = _Look.of(spatial, temporal, value_range, return_array=return_array, save_dir=save_dir)
    if not isinstance(sensor, SensorSpec):
        raise ArgumentError(f"sensor must be a SensorSpec, got {sensor!r}")
    if isinstance(spatial, PointBuffer) and spatial.buffer_m is None:
        raise SpecError("a point needs buffer_m here: without a model there is no native footprint")
    provider = get_provider(backend, catalog=catalog)
    plan = plan_sensor(sensor, provider, recipe=recipe, about=provider.describe())
    row = fetch_row(plan, spatial, look.window, provider)
    about: dict[str, Any] = {
        "sensor": to_json(sensor),
        "fetch": to_json(plan.groups[0].recipe),
        "backend": row.patch.provenance.get("backend", provider.name),
        "recipe": recipe,
    }
    return look.report(about, row.patch, plan.groups[0].recipe.collection)


def inspect_model_input(
    model: str,
    *,
    spatial: Spatial,
    temporal: TemporalSpec | None = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    backend: Backend | None = "auto",
    catalog: str | Path | None = None,
    input_prep: InputPrep | None = None,
    recipe: Recipe = "authors",
    context: Context | None = None,
    value_range: tuple[float, float] | None = None,
    return_arrays: bool = False,
    save_dir: str | Path | None = None,
    **options: OptionValue,
) -> dict[str, Any]:
    """What ``model`` would be given at ``spatial``, before its own preprocessing; a JSON report.

    Planned and fetched as a run would, so the pixels are those of a run; ``frames`` has an entry for each time
    bin. Neither weights nor torch are loaded. ``options``: the model's own. For the rest see
    :func:`inspect_provider_patch`.
    """
    look = _Look.of(spatial, temporal, value_range, return_array=return_arrays, save_dir=save_dir)
    call = CallSettings(
        sensor=sensor,
        fetch=fetch,
        modality=modality,
        backend=backend,
        catalog=catalog,
        input_prep=input_prep,
        recipe=recipe,
        context=context,
        device="cpu",  # known without torch; the pixels are the same for every device
        options=options,
    )
    request = call.request(model)
    provider = get_provider(call.backend, catalog=catalog)
    plan = plan_run(request, provider, Settings.from_environment())
    planned = plan.models[0]
    row = fetch_row(plan, spatial, look.window, provider)
    footprint = row.footprint
    about: dict[str, Any] = {
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
    }
    return look.report(about, row.patch, planned.recipe.collection, window_notes(planned, look.window))


@dataclass(frozen=True)
class _Look:
    """Where and when to look, and what to make of it."""

    spatial: Spatial
    window: Window
    value_range: tuple[float, float] | None
    return_array: bool
    save_dir: Path | None

    @classmethod
    def of(
        cls, spatial: Spatial, temporal: object, value_range: object, *, return_array: bool, save_dir: str | Path | None
    ) -> _Look:
        """Checked; a window that is the default is told."""
        (place,) = checked_spatials([spatial])
        window, defaulted = resolved_window(temporal)
        bounds = None
        if value_range is not None:
            try:
                low, high = (float(value) for value in value_range)  # type: ignore[attr-defined]  # or it is told
            except (TypeError, ValueError) as exc:
                raise ArgumentError(f"value_range must be two numbers, low and high; got {value_range!r}") from exc
            if not low < high:
                raise ArgumentError(f"value_range must be two numbers, low and high; got {value_range!r}")
            bounds = (low, high)
        if defaulted:
            warn_user(f"no temporal was given: the last complete year is used ({window})")
        return cls(place, window, bounds, return_array, None if save_dir is None else Path(save_dir))

    def report(
        self, about: Mapping[str, Any], patch: Patch, collection: str, notes: list[str] | None = None
    ) -> dict[str, Any]:
        """``about`` with the patch's report, artifacts and, if asked for, its arrays."""
        report = report_patch(patch, collection, value_range=self.value_range)
        artifacts = [] if self.save_dir is None else save_patch(patch, self.save_dir, collection)
        found: dict[str, Any] = {
            "ok": report.ok,
            **about,
            "spatial": to_json(self.spatial),
            "temporal": {"start": self.window.start.isoformat(), "end": self.window.end.isoformat()},
            "n_frames": len(report.frames),
            "n_empty": report.n_empty,
            "frames": [frame_summary(frame) for frame in report.frames],
            "report": to_json(report),
            "warnings": [*(notes or []), *report.warnings],
            "artifacts": [str(path) for path in artifacts],
        }
        if self.return_array:
            found |= {"array_tchw": patch.values_tchw, "valid_tchw": patch.valid_tchw}
        return found


def save_patch(patch: Patch, folder: Path, collection: str) -> list[Path]:
    """Write ``patch.npz`` and ``quicklook.png`` into ``folder``; returns their paths.

    The npz holds values_tchw, valid_tchw, bands, transform (a, b, c, d, e, f), epsg, frame_dates (ISO
    text, empty for an empty frame). Raises SpecError without matplotlib (the npz already written), or where
    the folder cannot be written.
    """
    arrays = folder / "patch.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            arrays,
            values_tchw=patch.values_tchw,
            valid_tchw=patch.valid_tchw,
            bands=np.array(patch.bands, dtype=str),
            transform=np.array(patch.grid.transform, dtype=np.float64),
            epsg=np.array(patch.grid.epsg),
            frame_dates=np.array(["" if f.date is None else f.date.isoformat() for f in patch.frames], dtype=str),
        )
        picture = save_quicklook(patch, folder / "quicklook.png", f"{collection}, {patch.grid.scale_m:g} m")
    except OSError as exc:
        raise SpecError(f"cannot write to {folder}: {exc}; choose another folder") from exc
    return [arrays, picture]
