"""The keywords of the public functions, resolved in one place into what the pipelines take. Pure: nothing is opened."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from rsembed.core.card import OptionValue, Recipe
from rsembed.core.errors import ArgumentError, ModelError, SpecError
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
)
from rsembed.embedders.base import EmbedderBase, Precision
from rsembed.embedders.describe import card_backends
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.plan import configured
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, InputPrepMode, RunRequest
from rsembed.providers.base import ProviderBase
from rsembed.providers.factory import LOCAL, known_backend
from rsembed.tools.temporal import last_complete_year
from rsembed.tools.tiling import Context

InputPrep = InputPrepSpec | InputPrepMode
Backend = str | ProviderBase
OnError = Literal["raise", "nan"]


class CallKeywords(TypedDict, total=False):
    """The keywords that every call for embeddings takes, beside place, time and the model's own options."""

    sensor: SensorSpec | None
    fetch: FetchSpec | None
    modality: str | None
    output: OutputSpec
    backend: Backend | None
    device: str
    input_prep: InputPrep | None
    batch_size: int | None
    recipe: Recipe
    context: Context | None
    precision: Precision
    threads: int
    fetch_workers: int
    catalog: str | Path | None
    cache: bool
    on_error: OnError


@dataclass(frozen=True)
class CallSettings:
    """One call for embeddings but for its places and time. ``options``: the model's own, by name."""

    sensor: SensorSpec | None = None
    fetch: FetchSpec | None = None
    modality: str | None = None
    output: OutputSpec = OutputSpec()
    backend: Backend | None = "auto"
    device: str = "auto"
    input_prep: InputPrep | None = None
    batch_size: int | None = None
    recipe: Recipe = "authors"
    context: Context | None = None
    precision: Precision = "fp32"
    threads: int = 1
    fetch_workers: int = 8
    catalog: str | Path | None = None
    cache: bool = True
    on_error: OnError = "raise"
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "nan"):
            raise ArgumentError(f"on_error must be 'raise' or 'nan', got {self.on_error!r}")
        if not isinstance(self.cache, bool):
            raise ArgumentError(f"cache must be True or False, got {self.cache!r}")
        object.__setattr__(self, "backend", checked_backend(self.backend))

    def changed(self, changes: Mapping[str, object]) -> CallSettings:
        """These settings with some replaced; what is no keyword of the call is an option of the model."""
        known = {name: value for name, value in changes.items() if name in CALL_KEYWORDS}
        options: dict[str, Any] = {name: value for name, value in changes.items() if name not in CALL_KEYWORDS}
        return replace(self, **known, options={**self.options, **options})  # type: ignore[arg-type]  # checked later

    def given(self) -> dict[str, object]:
        """What differs from the defaults, by keyword."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "options"}
        default = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in own.items() if value != default[name]} | dict(self.options)

    def request(self, model: str) -> RunRequest:
        """What is asked of ``model``, checked against its card but for the device, which is not looked for.

        Raises ModelError or SpecError: an unknown option, an output that it does not give, a backend without it.
        """
        named = ExportModelRequest(model, model_config=self.options)
        asked = model_request(named, self.sensor, self.fetch, self.modality)
        config = ExportConfig(
            batch_size=self.batch_size,
            recipe=self.recipe,
            context=self.context,
            precision=self.precision,
            threads=self.threads,
            fetch_workers=self.fetch_workers,
            input_prep=self.input_prep,
        )
        request = RunRequest((asked,), self.output, config, self.device)
        self._check_names(model)
        check_backend(configured(asked, request), self.backend)
        return request

    def _check_names(self, model: str) -> None:
        """Raise for a name that is no option of the model, where it is likely to be a keyword misspelt."""
        card = REGISTRY.get(model).card
        known = {option.name for option in card.options}
        for name in self.options:
            near = difflib.get_close_matches(name, CALL_KEYWORDS, n=1, cutoff=0.75)
            if near and name not in known and not difflib.get_close_matches(name, known, n=1, cutoff=0.75):
                accepted = f"; options of {card.id}: {', '.join(sorted(known))}" if known else ""
                raise ModelError(
                    f"{card.id} has no option {name!r}; did you mean {near[0]}? accepted keywords: "
                    f"{', '.join(CALL_KEYWORDS)}{accepted}"
                )


CALL_KEYWORDS = tuple(each.name for each in fields(CallSettings) if each.name != "options")


def checked_backend(backend: object) -> Backend:
    """A provider as it is, or the name of one as it is spelled (None: ``auto``); ArgumentError for anything else."""
    if backend is None:
        return "auto"
    if isinstance(backend, str):
        return known_backend(backend)
    if isinstance(backend, type) or not isinstance(backend, ProviderBase):
        raise ArgumentError(f"backend must be the name of one or what get_provider returns, got {backend!r}")
    return backend


def check_backend(embedder: EmbedderBase, backend: object) -> None:
    """Raise ModelError for ``local``, published files alone, where the model needs imagery."""
    card = embedder.card
    if backend == LOCAL and (card.kind != "precomputed" or LOCAL not in card_backends(card)):
        raise ModelError(
            f"{card.id} does not read published embeddings from files, so it has no backend {LOCAL!r}; "
            f"it runs with auto, {', '.join(card_backends(card))}"
        )


def model_request(
    request: ExportModelRequest, sensor: SensorSpec | None, fetch: FetchSpec | None, modality: str | None
) -> ExportModelRequest:
    """``request`` with the sensor or fetch and the modality of the whole call where it names none of its own."""
    given = (("sensor", sensor, SensorSpec), ("fetch", fetch, FetchSpec))
    own = (("sensor", request.sensor, SensorSpec), ("fetch", request.fetch, FetchSpec))
    for name, value, kind in (*given, *own):
        if value is not None and not isinstance(value, kind):
            raise ArgumentError(f"{name} must be a {kind.__name__}, got {value!r}")
    for one, other in ((sensor, fetch), (request.sensor, request.fetch)):
        if one is not None and other is not None:
            raise ModelError("give sensor or fetch, not both: sensor says everything, fetch overrides single settings")
    return replace(
        request,
        sensor=request.sensor or (sensor if request.fetch is None else None),
        fetch=request.fetch or (fetch if request.sensor is None else None),
        modality=request.modality or modality,
    )


def model_requests(
    models: object, sensor: SensorSpec | None, fetch: FetchSpec | None, modality: str | None
) -> tuple[ExportModelRequest, ...]:
    """The models of an export, by name or as requests; ModelError for anything else."""
    if isinstance(models, (str, ExportModelRequest)) or not isinstance(models, Sequence) or not models:
        raise ModelError(f"models must be a non-empty list, got {models!r}")
    found = []
    for model in models:
        if not isinstance(model, (str, ExportModelRequest)):
            raise ModelError(f"a model must be a name or an ExportModelRequest, got {model!r}")
        request = ExportModelRequest.parse(model) if isinstance(model, str) else model
        found.append(model_request(request, sensor, fetch, modality))
    return tuple(found)


def checked_spatials(spatials: object) -> list[Spatial]:
    """``spatials`` as a list of places; ModelError for anything else."""
    if isinstance(spatials, (str, bytes)) or not isinstance(spatials, Sequence) or not spatials:
        raise ModelError(f"spatials must be a non-empty list of PointBuffer or BBox, got {spatials!r}")
    for spatial in spatials:
        if not isinstance(spatial, (PointBuffer, BBox)):
            raise ModelError(f"a spatial must be a PointBuffer or a BBox, got {spatial!r}")
    return list(spatials)


def resolved_window(temporal: object, today: dt.date | None = None) -> tuple[Window, bool]:
    """The days that ``temporal`` stands for, and whether they are the default: the last complete year.

    ``today``: None is the clock's, UTC. Raises SpecError for anything but a TemporalSpec or None.
    """
    if temporal is None:
        return last_complete_year(today or dt.datetime.now(dt.UTC).date()), True
    return checked_temporal(temporal).window, False


def checked_temporal(temporal: object) -> TemporalSpec:
    """``temporal``; SpecError where it is no TemporalSpec."""
    if not isinstance(temporal, TemporalSpec):
        raise SpecError(f"temporal must be TemporalSpec.year(2022) or TemporalSpec.range(start, end), got {temporal!r}")
    return temporal
