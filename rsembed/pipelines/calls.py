"""Places in, embeddings out, in memory: what :func:`rsembed.get_embedding` and its kin have in common."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding, RowStatus
from rsembed.core.errors import ModelError, ProviderError, RSEmbedError
from rsembed.core.notices import warn_user
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import Spatial, Window
from rsembed.pipelines.inference import RowRecord
from rsembed.pipelines.keywords import CallSettings, checked_spatials, resolved_window
from rsembed.pipelines.plan import ModelPlan, lock_weights, plan_model, plan_run, with_weights
from rsembed.pipelines.request import RunRequest
from rsembed.pipelines.runner import RowAnswer, embed_arrays, embed_places, tiling_notes
from rsembed.providers.base import ProviderBase
from rsembed.providers.collections import collection_info, imagery_attribution
from rsembed.tools.temporal import covered_year

_OF_THE_REQUEST = ("requests", "restricted", "backend")
"""What a provider says of its requests, not of the pixels."""


def embed_call(
    model: str,
    spatials: object,
    temporal: object,
    call: CallSettings,
    arrays: Sequence[NDArray[Any]] | None,
    open_provider: Callable[[], ProviderBase],
) -> list[Embedding]:
    """Embeddings of ``spatials``, in their order. ``open_provider`` is called where no ``arrays`` are in hand."""
    places = checked_spatials(spatials)
    window, defaulted = resolved_window(temporal)
    request = call.request(model)
    if defaulted:
        warn_user(f"no temporal was given: the last complete year is used ({window})")
    settings = Settings.from_environment().with_input_cache(call.cache)
    if arrays is not None:
        planned = with_weights(plan_model(request.models[0], request, settings), settings)
        answers = embed_arrays(planned, arrays, places, [window] * len(places), threads=call.threads)
        origin: dict[str, object] = {"backend": "array"}
    else:
        provider = open_provider()
        plan = lock_weights(plan_run(request, provider, settings), settings)
        planned = plan.models[0]
        answers = embed_places(plan, places, window, provider, settings)
        about = plan.provider if isinstance(plan.provider, Mapping) else {}
        origin = {"backend": about.get("backend", provider.name), "provider": plan.provider}
    tiling = tiling_notes(planned, [answer.footprint for answer in answers])
    for note in [*window_notes(planned, window), *empty_notes(planned, answers), *tiling]:
        warn_user(note)
    meta = call_meta(planned, window, defaulted, request) | origin
    return [_embedding(planned, answer, meta, places[i], i, call.on_error) for i, answer in enumerate(answers)]


def call_meta(model: ModelPlan, window: Window, defaulted: bool, request: RunRequest) -> dict[str, Any]:
    """What the embeddings of one call have in common."""
    embedder, config = model.embedder, model.embedder.config
    contract, frames = embedder.contract, model.recipe.frames
    spacing = "stretched" if frames.stretched(window) else "fixed" if frames.fixed_bins(window) else "equal"
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
        "temporal_sampling": {"mode": frames.mode, "spacing": spacing},
        "output": to_json(config.output),
        "image_size": contract.image_size,
        "input_prep": {"requested_mode": request.config.prep.mode},
        "context": config.context,
        "precision": config.precision,
        "device": model.device,
        "weights": None if model.weights is None else model.weights.to_json(),
        "licence": to_json(embedder.card.licence),
    }


def window_notes(model: ModelPlan, window: Window) -> list[str]:
    """What a user should know of how ``window`` meets the model: another year, stretched bins."""
    frames, name = model.recipe.frames, model.embedder.card.id
    notes = []
    if frames.mode == "annual" and (year := covered_year(window, frames)) != window:
        notes.append(f"{name} has embeddings by the year: {year.start.year} stands for the window {window}")
    if frames.stretched(window):
        n = frames.count(window)
        notes.append(
            f"the window {window} is longer than {n} frames of {frames.frame_days} days, so the frames of {name} "
            f"are {n} equal parts of it"
        )
    return notes


def empty_notes(model: ModelPlan, answers: Sequence[RowAnswer]) -> list[str]:
    """Which time bins had no imagery, and at how many of the places."""
    name, notes = model.embedder.card.id, []
    holes = Counter(
        bins for answer in answers if answer.vector is not None and (bins := empty_bins(answer.record.frame_dates))
    )
    for bins, count in sorted(holes.items()):
        n = len(answers[0].record.frame_dates)
        which = ", ".join(map(str, bins))
        notes.append(
            f"{count} of {len(answers)} places have no imagery in {len(bins)} of {n} time bins (numbers {which}); "
            f"{name} is given the others (meta['empty_bins'] says which)"
        )
    return notes


def empty_bins(frame_dates: Sequence[object]) -> tuple[int, ...]:
    """Numbers of the bins without imagery."""
    return tuple(i for i, day in enumerate(frame_dates) if day is None)


def _embedding(
    model: ModelPlan, answer: RowAnswer, meta: Mapping[str, Any], spatial: Spatial, index: int, on_error: str
) -> Embedding:
    record = answer.record
    empty = empty_bins(record.frame_dates)
    # A copy: who changes one embedding's facts must not change its neighbours'.
    about = copy.deepcopy(dict(meta)) | {
        "status": record.status.value,
        "spatial": to_json(spatial),
        "n_images": record.n_images,
        "valid_fraction": record.valid_fraction,
        "frame_dates": to_json(record.frame_dates),
        "n_bins": len(record.frame_dates),
        "n_frames": len(record.frame_dates) - len(empty),
        "empty_bins": list(empty),
        "scene_ids": list(record.scene_ids),
        "grid": None if answer.cells is None else answer.cells.to_json(),
        "input_prep": dict(meta["input_prep"]) | answer.footprint.describe(model.native_px),
        "provenance": {key: value for key, value in record.provenance.items() if key not in _OF_THE_REQUEST},
        "first_date": to_json(record.first_date),
        "last_date": to_json(record.last_date),
        "attribution": _attribution(model, record),
        "error": None if record.failure is None else to_json(record.failure),
    }
    if answer.vector is not None:
        return Embedding(answer.vector, about)
    if on_error == "nan":
        return Embedding(np.full(model.embedder.dim, np.nan, dtype=np.float32), about)
    raise _why(model, answer, spatial, index)


def _filters(model: ModelPlan) -> str:
    """What images had to be like."""
    recipe = model.recipe
    if collection_info(recipe.collection).family != "sentinel-1":
        return str(recipe.clouds)
    wide = "mode IW alone" if recipe.s1_require_iw and not recipe.s1_relax_iw_on_empty else "mode IW first"
    return f"orbit {recipe.orbit}, {wide if recipe.s1_require_iw else 'every mode'}"


def _attribution(model: ModelPlan, record: RowRecord) -> list[str]:
    """What has to be said beside an embedding: of the model, and of the imagery that went into it."""
    years = sorted({day.year for day in (record.first_date, record.last_date) if day is not None})
    said = (model.embedder.card.licence.attribution, imagery_attribution(model.recipe.collection, years))
    return list(dict.fromkeys(filter(None, said)))


def _why(model: ModelPlan, answer: RowAnswer, spatial: Spatial, index: int) -> RSEmbedError:
    failure = answer.record.failure
    if answer.record.status is RowStatus.NO_DATA:
        return ProviderError(
            f"No images found for spatials[{index}] ({spatial}) in {model.recipe.collection} ({_filters(model)}); "
            "widen the window, relax the filters or choose another place"
        )
    text = "unknown reason" if failure is None else failure.message
    if failure is not None and failure.stage == "infer":
        return ModelError(f"spatials[{index}] ({spatial}): {text}")
    return ProviderError(f"spatials[{index}] ({spatial}): {text}")
