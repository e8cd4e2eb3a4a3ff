"""Look at what a run would fetch: one row through the run's own planning and fetching."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsembed.core.card import InputContract, Licence, ModelCard, Recipe
from rsembed.core.errors import ModelError, ProviderError, SpecError
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
