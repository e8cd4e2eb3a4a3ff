"""Look at what a run would fetch: one row through the run's own planning and fetching, and numbers about it."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Recipe
from rsembed.core.errors import ModelError, ProviderError, SpecError
from rsembed.core.patch import Patch
from rsembed.core.specs import InputPrepSpec, SensorSpec, Spatial, Window
from rsembed.embedders.base import EmbedderBase, EmbedderConfig, Floats, View
from rsembed.pipelines.fetch_unit import FetchUnit, RowFailure
from rsembed.pipelines.inference import RowInput, unit_source
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.plan import FetchGroup, ModelPlan, RunPlan
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.request import ExportConfig
from rsembed.pipelines.retry import RetryPolicy
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import scratch_rows, single_model
from rsembed.pipelines.servable import check_places
from rsembed.providers.base import ProviderBase
from rsembed.providers.collections import canonical_bands


@dataclass(frozen=True)
class BandReport:
    """One band of one frame, over its valid pixels, in the provider's units; None where nothing is valid."""

    band: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    valid_fraction: float


@dataclass(frozen=True)
class FrameReport:
    """One frame: its bin ``[start, end)``, what went into it, and its bands."""

    start: dt.date
    end: dt.date
    date: dt.date | None
    n_images: int
    first_date: dt.date | None
    last_date: dt.date | None
    scene_ids: tuple[str, ...]
    bands: tuple[BandReport, ...]


@dataclass(frozen=True)
class PatchReport:
    """A patch in numbers. ``ok``: something is valid; ``transform``: affine (a, b, c, d, e, f) of the grid."""

    ok: bool
    collection: str
    epsg: int
    scale_m: float
    height: int
    width: int
    transform: tuple[float, ...]
    valid_fraction: float
    n_images: int
    frames: tuple[FrameReport, ...]
    warnings: tuple[str, ...]


def report_patch(patch: Patch, collection: str) -> PatchReport:
    """Numbers about ``patch``, and what is odd about it."""
    frames = tuple(_frame(patch, t) for t in range(len(patch.frames)))
    grid = patch.grid
    return PatchReport(
        ok=not patch.is_empty,
        collection=collection,
        epsg=grid.epsg,
        scale_m=grid.scale_m,
        height=grid.height,
        width=grid.width,
        transform=grid.transform,
        valid_fraction=patch.valid_fraction(),
        n_images=patch.n_images,
        frames=frames,
        warnings=tuple(_warnings(patch, frames)),
    )


def _frame(patch: Patch, t: int) -> FrameReport:
    frame = patch.frames[t]
    bands = []
    for c, band in enumerate(patch.bands):
        values, valid = patch.values_tchw[t, c], patch.valid_tchw[t, c]
        seen = values[valid].astype(np.float64)
        low, high, mean = (seen.min(), seen.max(), seen.mean()) if seen.size else (None, None, None)
        bands.append(BandReport(band, _number(low), _number(high), _number(mean), float(valid.mean())))
    return FrameReport(
        start=frame.window.start,
        end=frame.window.end,
        date=frame.date,
        n_images=frame.n_images,
        first_date=frame.first_date,
        last_date=frame.last_date,
        scene_ids=frame.scene_ids,
        bands=tuple(bands),
    )


def _number(value: np.float64 | None) -> float | None:
    return None if value is None else float(value)


def _warnings(patch: Patch, frames: tuple[FrameReport, ...]) -> list[str]:
    if patch.is_empty:
        return ["nothing is valid: no imagery here in this window, or all of it is masked"]
    found = []
    for t, frame in enumerate(frames):
        name = f"frame {t} ({frame.start}..{frame.end})"
        if not frame.n_images:
            found.append(f"{name} has no imagery")
            continue
        for band in frame.bands:
            if band.valid_fraction == 0:
                found.append(f"{name}: nothing of {band.band} is valid")
            elif band.minimum == band.maximum:
                found.append(f"{name}: {band.band} is {band.minimum:g} everywhere")
    if patch.valid_fraction() < 0.5:
        found.append(f"only {patch.valid_fraction():.0%} of the pixels are valid in every band")
    return found


def fetch_row(plan: RunPlan, spatial: Spatial, window: Window, provider: ProviderBase) -> RowInput:
    """The input of one place for the plan's only model, exactly as a run would fetch it.

    Raises what a run would record: ProviderError with the failure's message.
    """
    model, config, group = single_model(plan), plan.config, plan.groups[0]
    prefetch = PrefetchManager(provider, workers=1, retry=RetryPolicy(config.max_attempts))
    with (
        scratch_rows([spatial], WindowPolicy(default=(window,)), None) as table,
        tempfile.TemporaryDirectory(prefix="rsembed-inspect-") as scratch,
    ):
        check_places(plan, table)
        shard = table.shard(0, 1)
        buffer_m = getattr(spatial, "buffer_m", None)
        unit = FetchUnit(group, 0, shard, {model.label: (0,)}, plan.group_digest(group), buffer_m)
        for fetched in prefetch.run(iter([(unit, InputPack(Path(scratch) / "unit.pack"))]), shard_size=1):
            found = unit_source(model, fetched, partial(prefetch.fetch_again, fetched))(0)
            prefetch.release(fetched)
            if isinstance(found, RowInput):
                return found
            raise ProviderError(found.message if isinstance(found, RowFailure) else "nothing was fetched")
    raise ProviderError("nothing was fetched")


def plan_sensor(sensor: SensorSpec, provider: ProviderBase, *, recipe: Recipe, about: Mapping[str, Any]) -> RunPlan:
    """A plan to fetch ``sensor`` as any model with that sensor would, without a model.

    ``about``: what :meth:`ProviderBase.describe` said. Raises ProviderError when it cannot be served.
    """
    config = EmbedderConfig(
        recipe=recipe, modality="sensor", context="none", input_prep=InputPrepSpec.resize(), sensor=sensor
    )
    embedder = _AnySensor(config)
    fetch = embedder.fetch_recipe()
    bands = canonical_bands(fetch.collection, sensor.bands)
    model = ModelPlan("sensor", embedder, fetch, bands, batch_size=1, device="cpu", weights=None)
    provider.check(fetch, bands)
    group = FetchGroup(0, fetch, bands, (model,))
    return RunPlan((model,), (group,), ExportConfig(recipe=recipe), dict(about))


_FREE = InputContract(collection="", bands=(), scale_m=1.0, image_size=2, any_size=True)


class _AnySensor(EmbedderBase):
    """Stands where a model would in a plan, so that a sensor alone takes the same way to its pixels."""

    card = ModelCard(
        id="sensor",
        title="a sensor",
        summary="takes whatever is fetched",
        paper="none",
        source="none",
        kind="onthefly",
        inputs={"sensor": _FREE},
        outputs=("pooled",),
        pooling="vector",
        dims={"": 1},
        licence=Licence("none", "yes", "none"),
        steps={"authors": (), "rs-embed": ()},
    )

    @property
    def contract(self) -> InputContract:
        """The sensor as a contract."""
        sensor = self.config.sensor
        if sensor is None:
            raise SpecError("a sensor must be given where there is no model")
        return replace(
            _FREE,
            collection=sensor.collection,
            bands=sensor.bands,
            scale_m=sensor.scale_m,
            composite="mosaic" if sensor.composite == "mosaic" else "median",
            fill_value=sensor.fill_value,
            orbit=_orbit(sensor),
        )

    def prepare(self, view: View) -> Mapping[str, NDArray[Any]]:
        """See EmbedderBase: a sensor has no network."""
        raise ModelError("a sensor alone embeds nothing")

    def load(self, device: str) -> None:
        """See EmbedderBase: a sensor has no network."""
        raise ModelError("a sensor alone embeds nothing")

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        """See EmbedderBase: a sensor has no network."""
        raise ModelError("a sensor alone embeds nothing")


def _orbit(sensor: SensorSpec) -> Any:  # one of the contract's words; SensorSpec has checked it
    return sensor.orbit or "any"
