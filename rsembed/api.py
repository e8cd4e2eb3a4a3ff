"""The public functions. Each resolves what was asked into a plan and hands it to the pipelines."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsembed.core.card import OptionValue, Recipe
from rsembed.core.embedding import Embedding, RowStatus
from rsembed.core.errors import ModelError, ProviderError, RSEmbedError, SpecError
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import (
    BBox,
    FetchSpec,
    InputPrepSpec,
    OutputSpec,
    PointBuffer,
    SensorSpec,
    Spatial,
    TemporalSpec,
    Window,
)  # fmt: skip
from rsembed.embedders.describe import describe_model_class
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.plan import ModelPlan, lock_weights, plan_model, plan_run, with_weights
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.pipelines.runner import RowAnswer, embed_arrays, embed_places
from rsembed.providers.base import ProviderBase
from rsembed.providers.factory import make_provider
from rsembed.tools.temporal import last_complete_year
from rsembed.tools.tiling import Context

Device = str
InputPrep = InputPrepSpec | Literal["tile", "resize", "auto"]
Temporal = TemporalSpec | None


def list_models(include_aliases: bool = False) -> list[str]:
    """Ids of all models, sorted; with ``include_aliases`` also the other names they answer to."""
    return REGISTRY.names(include_aliases=include_aliases)


def describe_model(model: str) -> dict[str, Any]:
    """What a model takes, gives and offers, as plain JSON; loads neither weights nor torch."""
    return describe_model_class(REGISTRY.get(model))


def reset_runtime() -> dict[str, int]:
    """Forget loaded networks, imported models and open providers; returns how many of each."""
    from rsembed.embedders import torch_runtime

    closed = len(_PROVIDERS)
    for provider in _PROVIDERS.values():
        provider.close()
    _PROVIDERS.clear()
    return {"networks": torch_runtime.reset_cache(), "models": REGISTRY.forget(), "providers": closed}


_PROVIDERS: dict[tuple[object, ...], ProviderBase] = {}


def get_provider(
    backend: str | ProviderBase = "auto", *, catalog: str | Path | None = None, source: object = None, **declared: Any
) -> ProviderBase:
    """The provider behind ``backend``, to be given as ``backend=`` to the other functions.

    ``catalog``: path or URL of a STAC catalogue or API (backend ``stac``). ``source``: the user's own
    GeoTIFFs, a folder of them, or a ``RasterArray`` (backend ``raster``); ``declared`` says what it
    holds: ``collection``, ``bands``, ``scale``, ``offset``, ``unit``, ``datetime`` (see
    :class:`rsembed.providers.raster.RasterProvider`). A provider object is returned as it is; one
    without a source is opened once in this process for equal arguments.
    """
    if not isinstance(backend, str):
        return backend
    settings = Settings.from_environment()
    if source is not None:
        return make_provider(backend, catalog=catalog, source=source, settings=settings, **declared)
    key = (backend, str(catalog), settings)
    if key not in _PROVIDERS:
        _PROVIDERS[key] = make_provider(backend, catalog=catalog, settings=settings, **declared)
    return _PROVIDERS[key]


def get_embedding(model: str, *, spatial: Spatial, input_chw: NDArray[Any] | None = None, **options: Any) -> Embedding:
    """The embedding of one place and time; see :func:`get_embeddings_batch` for the keywords.

    ``input_chw``: the user's own pixels instead of a fetch: raw provider values, (C, H, W) or
    (T, C, H, W), bands in the order of the model's card. Returns float32 ``(D,)`` or ``(D, H, W)``.
    """
    arrays = None if input_chw is None else [input_chw]
    # Nobody waits for empty slots; a batch size that a Model was given is for its batches.
    return get_embeddings_batch(model, spatials=[spatial], input_chws=arrays, **(options | {"batch_size": 1}))[0]


def get_embeddings_batch(
    model: str,
    *,
    spatials: Sequence[Spatial],
    temporal: Temporal = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    output: OutputSpec = OutputSpec(),  # noqa: B008 - frozen value
    backend: str | ProviderBase = "auto",
    device: Device = "auto",
    input_prep: InputPrep | None = None,
    input_chws: Sequence[NDArray[Any]] | None = None,
    batch_size: int | None = None,
    recipe: Recipe = "authors",
    context: Context | None = None,
    precision: Literal["fp32", "bf16", "tf32"] = "fp32",
    threads: int = 1,
    fetch_workers: int = 8,
    catalog: str | Path | None = None,
    cache: bool = True,
    on_error: Literal["raise", "nan"] = "raise",
    **options: OptionValue,
) -> list[Embedding]:
    """Embeddings of several places, in their order; one path with :func:`get_embedding`.

    ``temporal`` None: the last complete year, with a warning. ``options``: the model's own
    settings (``rsembed describe MODEL`` lists them). ``on_error``: a place that fails or has no
    imagery raises (after the others were tried), or becomes NaN with the reason in its ``meta``.
    ``cache``: use and keep fetched pixels in the user's cache folder (``rsembed cache``).

    Raises ModelError or SpecError for a wrong request, ProviderError when imagery cannot be had.
    """
    spatials = _checked_spatials(spatials)
    if on_error not in ("raise", "nan"):
        raise ModelError(f"on_error must be 'raise' or 'nan', got {on_error!r}")
    window, defaulted = _window(temporal)
    request = RunRequest(
        models=(ExportModelRequest(model, sensor, fetch, modality, options),),
        output=output,
        config=ExportConfig(
            batch_size=batch_size,
            recipe=recipe,
            context=context,
            precision=precision,
            threads=threads,
            fetch_workers=fetch_workers,
            input_prep=_prep(input_prep),
        ),
        device=device,
    )
    settings = Settings.from_environment().with_input_cache(cache)
    if input_chws is not None:
        planned = with_weights(plan_model(request.models[0], request, settings), settings)
        windows = [window] * len(spatials)
        answers = embed_arrays(planned, input_chws, spatials, windows, threads=threads)
        origin: dict[str, object] = {"backend": "array"}
    else:
        provider = get_provider(backend, catalog=catalog)
        plan = lock_weights(plan_run(request, provider, settings), settings)
        planned = plan.models[0]
        answers = embed_places(plan, spatials, window, provider, settings)
        about = plan.provider if isinstance(plan.provider, Mapping) else {}
        origin = {"backend": about.get("backend", provider.name), "provider": plan.provider}
    meta = _meta(planned, window, defaulted, request) | origin
    return [_embedding(planned, answer, meta, spatials[i], i, on_error) for i, answer in enumerate(answers)]


def _checked_spatials(spatials: Sequence[Spatial]) -> list[Spatial]:
    if isinstance(spatials, (str, bytes)) or not isinstance(spatials, Sequence) or not spatials:
        raise ModelError(f"spatials must be a non-empty list of PointBuffer or BBox, got {spatials!r}")
    for spatial in spatials:
        if not isinstance(spatial, (PointBuffer, BBox)):
            raise ModelError(f"a spatial must be a PointBuffer or a BBox, got {spatial!r}")
    return list(spatials)


def _prep(input_prep: InputPrep | None) -> InputPrepSpec:
    if input_prep is None:
        return InputPrepSpec()
    return InputPrepSpec(input_prep) if isinstance(input_prep, str) else input_prep


def _window(temporal: Temporal) -> tuple[Window, bool]:
    if temporal is not None:
        if not isinstance(temporal, TemporalSpec):
            raise SpecError(
                f"temporal must be TemporalSpec.year(2022) or TemporalSpec.range(start, end), got {temporal!r}"
            )
        return temporal.window, False
    window = last_complete_year(dt.datetime.now(dt.UTC).date())
    warnings.warn(f"no temporal was given: the last complete year is used ({window})", UserWarning, stacklevel=4)
    return window, True


def _meta(model: ModelPlan, window: Window, defaulted: bool, request: RunRequest) -> dict[str, Any]:
    embedder, config = model.embedder, model.embedder.config
    contract = embedder.contract
    return {
        "model": embedder.card.id,
        "type": embedder.card.kind,
        "source": embedder.card.source,
        "options": to_json(config.options),
        "recipe": config.recipe,
        "modality": config.modality,
        "sensor": to_json(contract),
        "fetch": to_json(model.recipe),
        "temporal": {"start": window.start.isoformat(), "end": window.end.isoformat(), "default": defaulted},
        "output": to_json(config.output),
        "image_size": contract.image_size,
        "input_prep": {"requested_mode": request.config.prep.mode},
        "context": config.context,
        "precision": config.precision,
        "device": model.device,
        "weights": None if model.weights is None else model.weights.to_json(),
    }


def _embedding(
    model: ModelPlan, answer: RowAnswer, meta: Mapping[str, Any], spatial: Spatial, index: int, on_error: str
) -> Embedding:
    record = answer.record
    about = dict(meta) | {
        "status": record.status.value,
        "spatial": to_json(spatial),
        "n_images": record.n_images,
        "valid_fraction": record.valid_fraction,
        "frame_dates": to_json(record.frame_dates),
        "n_bins": len(record.frame_dates),
        "n_frames": sum(day is not None for day in record.frame_dates),
        "scene_ids": list(record.scene_ids),
        "grid": answer.georeference(),
        "first_date": to_json(record.first_date),
        "last_date": to_json(record.last_date),
        "error": None if record.failure is None else to_json(record.failure),
    }
    if answer.vector is not None:
        return Embedding(answer.vector, about)
    if on_error == "nan":
        return Embedding(np.full(model.embedder.dim, np.nan, dtype=np.float32), about)
    raise _why(model, answer, spatial, index)


def _why(model: ModelPlan, answer: RowAnswer, spatial: Spatial, index: int) -> RSEmbedError:
    failure = answer.record.failure
    if answer.record.status is RowStatus.NO_DATA:
        return ProviderError(
            f"No images found for spatials[{index}] ({spatial}) in {model.recipe.collection}; widen the window, "
            "relax the cloud filter or choose another place"
        )
    text = "unknown reason" if failure is None else failure.message
    if failure is not None and failure.stage == "infer":
        return ModelError(f"spatials[{index}] ({spatial}): {text}")
    return ProviderError(f"spatials[{index}] ({spatial}): {text}")


__all__ = [
    "Embedding", "describe_model", "get_embedding", "get_embeddings_batch", "get_provider",
    "list_models", "reset_runtime",
]  # fmt: skip
