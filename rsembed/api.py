"""The public functions. Each resolves what was asked into a plan and hands it to the pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsembed.core.card import OptionValue, Recipe
from rsembed.core.embedding import Embedding
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, OutputSpec, SensorSpec, Spatial, TemporalSpec
from rsembed.embedders.base import Precision
from rsembed.embedders.describe import describe_model_class
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.calls import embed_call
from rsembed.pipelines.keywords import Backend, CallSettings, InputPrep, OnError, checked_backend
from rsembed.providers.base import ProviderBase
from rsembed.providers.factory import make_provider
from rsembed.tools.tiling import Context


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
    backend: Backend | None = "auto", *, catalog: str | Path | None = None, source: object = None, **declared: Any
) -> ProviderBase:
    """The provider behind ``backend``, to be given as ``backend=`` to the other functions.

    ``catalog``: path or URL of a STAC catalogue or API (backend ``stac``). ``source``: the user's own
    GeoTIFFs, a folder of them, or a ``RasterArray`` (backend ``raster``); ``declared`` says what it
    holds: ``collection``, ``bands``, ``scale``, ``offset``, ``unit``, ``datetime`` (see
    :class:`rsembed.providers.raster.RasterProvider`). A provider object is returned as it is; one
    without a source is opened once in this process for equal arguments.
    """
    backend = checked_backend(backend)
    if not isinstance(backend, str):
        return backend
    settings = Settings.from_environment()
    if source is not None:
        return make_provider(backend, catalog=catalog, source=source, settings=settings, **declared)
    key = (backend, str(catalog), settings)
    if key not in _PROVIDERS:
        _PROVIDERS[key] = make_provider(backend, catalog=catalog, settings=settings, **declared)
    return _PROVIDERS[key]


def get_embedding(
    model: str,
    *,
    spatial: Spatial,
    temporal: TemporalSpec | None = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    output: OutputSpec = OutputSpec(),  # noqa: B008 - frozen value
    backend: Backend | None = "auto",
    device: str = "auto",
    input_prep: InputPrep | None = None,
    input_chw: NDArray[Any] | None = None,
    recipe: Recipe = "authors",
    context: Context | None = None,
    precision: Precision = "fp32",
    threads: int = 1,
    fetch_workers: int = 8,
    catalog: str | Path | None = None,
    cache: bool = True,
    on_error: OnError = "raise",
    **options: OptionValue,
) -> Embedding:
    """The embedding of one place and time; see :func:`get_embeddings_batch` for the keywords.

    ``input_chw``: the user's own pixels instead of a fetch: raw provider values, (C, H, W) or
    (T, C, H, W), bands in the order of the model's card. Returns float32 ``(D,)`` or ``(D, H, W)``.
    """
    call = CallSettings(
        sensor=sensor,
        fetch=fetch,
        modality=modality,
        output=output,
        backend=backend,
        device=device,
        input_prep=input_prep,
        recipe=recipe,
        context=context,
        precision=precision,
        threads=threads,
        fetch_workers=fetch_workers,
        catalog=catalog,
        cache=cache,
        on_error=on_error,
        options=options,
    )
    return embed_one(model, spatial, temporal, call, input_chw)


def get_embeddings_batch(
    model: str,
    *,
    spatials: Sequence[Spatial],
    temporal: TemporalSpec | None = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    output: OutputSpec = OutputSpec(),  # noqa: B008 - frozen value
    backend: Backend | None = "auto",
    device: str = "auto",
    input_prep: InputPrep | None = None,
    input_chws: Sequence[NDArray[Any]] | None = None,
    batch_size: int | None = None,
    recipe: Recipe = "authors",
    context: Context | None = None,
    precision: Precision = "fp32",
    threads: int = 1,
    fetch_workers: int = 8,
    catalog: str | Path | None = None,
    cache: bool = True,
    on_error: OnError = "raise",
    **options: OptionValue,
) -> list[Embedding]:
    """Embeddings of several places, in their order; one path with :func:`get_embedding`.

    - ``model``: an id or another name of one (:func:`list_models`).
    - ``spatials``: the places. ``temporal``: when; None is the last complete year, with a warning.
    - ``sensor`` says all of what is fetched, ``fetch`` changes single settings of the card; never both.
    - ``modality``: which of the model's inputs, such as ``s1``; None is the card's first.
    - ``output``: one vector, or a map of vectors.
    - ``backend``: where imagery comes from, see :func:`get_provider`; ``catalog``: a STAC catalogue or API.
    - ``device``: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; one that is missing is an error.
    - ``input_prep``: how a region larger than the model's input meets it; None is tiles.
    - ``input_chws``: the user's own pixels instead of a fetch, an array for each place (see :func:`get_embedding`).
    - ``batch_size``: places a forward pass; None is the card's for the device.
    - ``recipe``: ``authors``, or ``rs-embed`` for what the reference system does.
    - ``context``: a region smaller than the model's input is seen among its surroundings (``native``), or alone and
      resized (``none``); None is the recipe's.
    - ``precision``: ``bf16`` and ``tf32`` need CUDA. ``threads``: CPU threads of a forward pass.
    - ``fetch_workers``: requests in flight. ``cache``: use and keep fetched pixels in the user's cache folder
      (``rsembed cache``).
    - ``on_error``: a place that fails or has no imagery raises (after the others were tried), or becomes NaN with the
      reason in its ``meta``.
    - ``options``: the model's own settings; ``rsembed describe MODEL`` lists them.

    Raises ModelError or SpecError for a wrong request, ProviderError when imagery cannot be had.
    """
    call = CallSettings(
        sensor=sensor,
        fetch=fetch,
        modality=modality,
        output=output,
        backend=backend,
        device=device,
        input_prep=input_prep,
        batch_size=batch_size,
        recipe=recipe,
        context=context,
        precision=precision,
        threads=threads,
        fetch_workers=fetch_workers,
        catalog=catalog,
        cache=cache,
        on_error=on_error,
        options=options,
    )
    return embed_several(model, spatials, temporal, call, input_chws)


def embed_several(
    model: str,
    spatials: Sequence[Spatial],
    temporal: TemporalSpec | None,
    call: CallSettings,
    input_chws: Sequence[NDArray[Any]] | None = None,
) -> list[Embedding]:
    """:func:`get_embeddings_batch` with its keywords as one value."""
    provider = lambda: get_provider(call.backend, catalog=call.catalog)  # noqa: E731 - opened only where it is needed
    return embed_call(model, spatials, temporal, call, input_chws, provider)


def embed_one(
    model: str,
    spatial: Spatial,
    temporal: TemporalSpec | None,
    call: CallSettings,
    input_chw: NDArray[Any] | None = None,
) -> Embedding:
    """:func:`get_embedding` with its keywords as one value."""
    # Nobody waits for empty slots; a batch size that a Model was given is for its batches.
    alone = call.changed({"batch_size": 1})
    return embed_several(model, [spatial], temporal, alone, None if input_chw is None else [input_chw])[0]


__all__ = [
    "Embedding", "describe_model", "get_embedding", "get_embeddings_batch", "get_provider",
    "list_models", "reset_runtime",
]  # fmt: skip
