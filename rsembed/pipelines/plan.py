"""From a request to a plan: which models, which shared fetches, which pixels. Pure; nothing is fetched.

Models share a fetch exactly when their fetch recipes are equal (collection, scale, window
policy, composite, clouds, orbit, resampling, grid). Bands are the union and the largest
footprint is fetched; the others are central crops of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ModelError
from rsembed.core.fetching import FetchRecipe, FramePolicy
from rsembed.core.patch import Json
from rsembed.core.serialization import digest, to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import Window
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.options import make_config
from rsembed.embedders.registry import REGISTRY
from rsembed.embedders.weights import WeightsHandle, WeightsLock, WeightsPin
from rsembed.pipelines.product_pixels import product_footprint, touched_pixels
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.pipelines.rows.table import RowShard
from rsembed.pipelines.sources import check_source
from rsembed.providers.base import ProviderBase
from rsembed.providers.collections import canonical_bands, grid_rule
from rsembed.providers.routing import describe_for
from rsembed.tools.spatial import GridArray, GridRule, Place, box_pixels, even_pixels, snapped_grids
from rsembed.tools.temporal import frame_bins
from rsembed.tools.tiling import Footprint, plan_footprint
from rsembed.writers.atomic import safe_label

FORMAT_VERSION = 2
"""Raised whenever names, columns or bytes of outputs change for the same request."""


@dataclass(frozen=True)
class ModelPlan:
    """One model of a run, resolved. ``embedder`` is configured but not loaded.

    ``weights``: the file on this machine, or just its pin where nothing is loaded. ``steps``: of each dimension, where
    numbers are stored as int8; None while they are not fixed.
    """

    label: str
    embedder: EmbedderBase
    recipe: FetchRecipe
    bands: tuple[str, ...]
    batch_size: int
    device: str
    weights: WeightsHandle | WeightsPin | None
    steps: tuple[float, ...] | None = None

    @property
    def native_px(self) -> int:
        """Side of the model's own input, pixels."""
        return self.embedder.contract.image_size

    def footprint(self, asked_height: int, asked_width: int) -> Footprint:
        """How a region of that many pixels meets this model. Raises ModelError for one that is too large."""
        config = self.embedder.config
        if self.embedder.card.kind == "precomputed":
            return product_footprint(asked_height, asked_width, len(self.bands))
        return _footprint(asked_height, asked_width, self.native_px, config.context, config.input_prep)

    def describe(self) -> dict[str, Json]:
        """What the result depends on, as plain JSON; part of the fingerprint."""
        embedder = self.embedder
        config = embedder.config
        weights = self.weights
        return {
            "label": self.label,
            "model": embedder.card.id,
            "numerics_version": embedder.card.numerics_version,
            "options": to_json(config.options),
            "recipe": config.recipe,
            "modality": config.modality,
            "output": to_json(config.output),
            "precision": config.precision,
            "context": config.context,
            "input_prep": to_json(config.input_prep),
            "input": to_json(embedder.contract),
            "fetch": to_json(self.recipe),
            "bands": list(self.bands),
            "batch_size": self.batch_size,
            "device_class": self.device.split(":")[0],
            "weights": None if weights is None else weights.to_json(),
        }


@lru_cache(maxsize=4096)
def _footprint(*args: object) -> Footprint:
    height, width, native, context, prep = args
    return plan_footprint(height, width, native, context=context, prep=prep)  # type: ignore[arg-type]  # see caller


@dataclass(frozen=True)
class FetchGroup:
    """Models that share one fetch."""

    index: int
    recipe: FetchRecipe
    bands: tuple[str, ...]
    models: tuple[ModelPlan, ...]

    @cached_property
    def rule(self) -> GridRule:
        """The lattice of the collection."""
        return grid_rule(self.recipe.collection)

    def bins(self, window: Window) -> tuple[Window, ...]:
        """The frames of a row with ``window``."""
        return _bins(window, self.recipe.frames)

    def asked_pixels(self, shard: RowShard, model: ModelPlan, buffer_m: float | None) -> tuple[Ints, Ints]:
        """``(height, width)`` in pixels that each row of ``shard`` asks of ``model``, shape (N,)."""
        if (touched := touched_pixels(self.recipe, shard, buffer_m)) is not None:
            return touched.height, touched.width
        scale_m = self.recipe.scale_m
        side = model.native_px if buffer_m is None else even_pixels(2 * buffer_m, scale_m)
        height, width = np.full(len(shard), side, np.int64), np.full(len(shard), side, np.int64)
        if (box := shard.kind == 1).any():
            height[box], width[box] = box_pixels(shard.boxes[box], scale_m, grid=self.recipe.grid)
        return height, width

    def grids(self, shard: RowShard, height: Ints | int, width: Ints | int, buffer_m: float | None = None) -> GridArray:
        """Snapped grids of that size around the rows of ``shard``; or a product's own pixels, as many as were asked."""
        recipe = self.recipe
        if (touched := touched_pixels(recipe, shard, buffer_m)) is not None:
            return touched
        return snapped_grids(shard.lon, shard.lat, height, width, recipe.scale_m, rule=self.rule, grid=recipe.grid)

    def describe(self) -> dict[str, Json]:
        """The shared fetch as plain JSON."""
        return {"recipe": to_json(self.recipe), "bands": list(self.bands), "models": [m.label for m in self.models]}


Ints = NDArray[np.int64]


@lru_cache(maxsize=65536)
def _bins(window: Window, frames: FramePolicy) -> tuple[Window, ...]:
    return frame_bins(window, frames)


@dataclass(frozen=True)
class RunPlan:
    """A run, resolved but for its rows."""

    models: tuple[ModelPlan, ...]
    groups: tuple[FetchGroup, ...]
    config: ExportConfig
    provider: Json

    def describe(self) -> dict[str, Json]:
        """Everything the output depends on except the rows, as plain JSON."""
        config = self.config
        return {
            "format_version": FORMAT_VERSION,
            "models": [model.describe() for model in self.models],
            "provider": self.provider,
            "buffer_m": to_json(config.buffer_m),
            "shard_size": config.shard_size,
            "shards_per_part": config.shards_per_part,
            "threads": config.threads,
            "min_valid_fraction": to_json(config.min_valid_fraction),
            "dtype": config.dtype,
            **({"steps": digest(to_json(config.steps))} if config.steps else {}),
        }

    def group_digest(self, group: FetchGroup) -> str:
        """Identifies what the group's fetches give; place, time and bands aside."""
        return digest({"provider": self.provider, "recipe": to_json(group.recipe)})


def plan_model(
    request: ExportModelRequest, run: RunRequest, settings: Settings, *, stated_device: bool = False
) -> ModelPlan:
    """One model, resolved but for its weights: configuration, bands, device, batch size. Raises ModelError.

    ``stated_device``: take the device at its word instead of looking for it on this machine.
    """
    config, embedder = run.config, configured(request, run)
    _check_licence(embedder, settings)
    device = embedder.stated_device(run.device) if stated_device else embedder.resolve_device(run.device)
    batch = config.batch_size or embedder.card.batch_size.get(device.split(":")[0], embedder.card.batch_size["cpu"])
    recipe, label = embedder.fetch_recipe(), safe_label(request.label or embedder.card.id)
    return ModelPlan(
        label=label,
        embedder=embedder,
        recipe=recipe,
        bands=canonical_bands(recipe.collection, embedder.contract.bands),
        batch_size=batch,
        device=device,
        weights=None,
        steps=_given_steps(config, label, embedder),
    )


def _given_steps(config: ExportConfig, label: str, embedder: EmbedderBase) -> tuple[float, ...] | None:
    """The steps that the request names for a model; ModelError for another number of them."""
    found = (config.steps or {}).get(label)
    if found is not None and len(found) != embedder.dim:
        raise ModelError(f"{label} has {embedder.dim} dimensions, {len(found)} steps were given; give one for each")
    return found


def configured(request: ExportModelRequest, run: RunRequest) -> EmbedderBase:
    """The model of ``request``, configured and checked against its card. Raises ModelError."""
    config, sensor = run.config, request.sensor
    cls = REGISTRY.get(request.name)
    modality = request.modality
    if sensor is not None and sensor.modality is not None:
        if modality not in (None, sensor.modality):
            raise ModelError(f"modality is {modality!r}, but the sensor's is {sensor.modality!r}; give one of the two")
        modality = sensor.modality
    return cls(
        make_config(
            cls.card,
            recipe=config.recipe,
            modality=modality,
            output=run.output,
            precision=config.precision,
            context=config.context or ("native" if config.recipe == "authors" else "none"),
            input_prep=config.prep,
            options=request.model_config,
            sensor=sensor,
            fetch=request.fetch,
        )
    )


def with_weights(model: ModelPlan, settings: Settings, pins: WeightsLock | None = None) -> ModelPlan:
    """``model`` with its weights found (or fetched) and hashed; ``pins``: this run's lock, by label."""
    pin = (pins or {}).get(model.label)
    return replace(model, weights=model.embedder.resolve(settings, pin))


def _check_licence(embedder: EmbedderBase, settings: Settings) -> None:
    licence = embedder.card.licence
    if settings.require_commercial and licence.commercial != "yes":
        raise ModelError(
            f"{embedder.card.id}: commercial use of the weights is {licence.commercial!r} ({licence.name}) and "
            "RSEMBED_REQUIRE_COMMERCIAL is set; `rsembed models --commercial` lists the models that may be used"
        )


def plan_run(run: RunRequest, provider: ProviderBase, settings: Settings, *, stated_device: bool = False) -> RunPlan:
    """Resolve ``run`` against ``provider``, all but the weights (:func:`lock_weights`).

    ``stated_device``: this machine only plans; the device is taken at its word (``cpu``, ``cuda``).
    Raises ModelError, SpecError or ProviderError before any work.
    """
    models = tuple(plan_model(request, run, settings, stated_device=stated_device) for request in run.models)
    labels = [model.label for model in models]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ModelError(
            f"label {twice[0]!r} stands for {labels.count(twice[0])} models; give each its own, "
            "written MODEL:option=value@LABEL"
        )
    bands_of: dict[FetchRecipe, tuple[str, ...]] = {}
    for model in models:
        bands_of[model.recipe] = tuple(sorted({*bands_of.get(model.recipe, ()), *model.bands}))
    for recipe, bands in bands_of.items():
        check_source(provider, recipe, bands, {m.label: m.embedder for m in models if m.recipe == recipe})
    groups = [
        FetchGroup(index, recipe, bands, tuple(model for model in models if model.recipe == recipe))
        for index, (recipe, bands) in enumerate(bands_of.items())
    ]
    return RunPlan(models, tuple(groups), run.config, to_json(dict(describe_for(provider, list(bands_of)))))


def lock_weights(plan: RunPlan, settings: Settings, pins: WeightsLock | None = None) -> RunPlan:
    """``plan`` with every model's weights found (or fetched) and hashed; ``pins``: the run's own lock.

    The last step of planning, because it may take a download. Raises WeightsError.
    """
    return with_models(plan, [with_weights(model, settings, pins) for model in plan.models])


def with_models(plan: RunPlan, models: Sequence[ModelPlan]) -> RunPlan:
    """``plan`` with ``models`` in the place of those of the same labels."""
    found = {model.label: model for model in models}
    groups = [replace(group, models=tuple(found[model.label] for model in group.models)) for group in plan.groups]
    return replace(plan, models=tuple(found[model.label] for model in plan.models), groups=tuple(groups))


def fingerprint(description: Json, rows_digest: str) -> str:
    """Hex sha256 that names a run's result: the resolved spec and the rows with their order."""
    return digest({"spec": description, "rows": rows_digest})


def request_key(group_digest: str, place: Place, bins: Sequence[Window]) -> str:
    """Content address of a fetched patch: what, where and when; not whose row it is, and not which bands."""
    epsg, x_min, y_max, height, width = place
    text = f"{group_digest}|{epsg},{x_min},{y_max},{height},{width}|{bins[0].start},{bins[-1].end},{len(bins)}"
    return hashlib.sha256(text.encode()).hexdigest()


def sharing_report(groups: Sequence[FetchGroup]) -> list[str]:
    """Why the models of a run need that many fetches: one line for each pair of groups."""
    names = [field.name for field in dataclasses.fields(FetchRecipe)]
    lines = []
    for i, a in enumerate(groups):
        for b in groups[i + 1 :]:
            asked = {name: (getattr(a.recipe, name), getattr(b.recipe, name)) for name in names}
            differing = [f"{name} ({one} / {other})" for name, (one, other) in asked.items() if one != other]
            sides = ["+".join(model.label for model in group.models) for group in (a, b)]
            lines.append(f"{sides[0]} and {sides[1]} cannot share a fetch: they differ in {', '.join(differing)}")
    return lines
