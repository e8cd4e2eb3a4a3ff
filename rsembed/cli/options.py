"""Options that several commands share, and the values of a request made from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from rsembed.api import get_provider
from rsembed.core.card import RECIPES, Recipe
from rsembed.core.errors import SpecError
from rsembed.core.specs import COMPOSITES, FetchSpec, SensorSpec
from rsembed.embedders.options import resolve_options
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.request import ExportModelRequest
from rsembed.providers.base import ProviderBase
from rsembed.providers.factory import BACKENDS, LOCAL, known_backend, make_provider

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")


def together(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several click decorators as one, in the order in which help shows them."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def take(kind: type[T], given: Mapping[str, Any]) -> T:
    """The dataclass ``kind`` out of a command's parameters of the same names."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]  # a dataclass


# Where imagery comes from --------------------------------------------------------------------


@dataclass(frozen=True)
class ImageryOptions:
    """Where pixels come from, as given."""

    backend: str
    catalog: str | None
    source: tuple[str, ...]
    source_collection: str | None
    source_bands: str | None
    source_scale: float | None
    source_offset: float
    source_unit: str | None
    source_date: str | None
    backend_options: str | None = None

    def provider(self) -> ProviderBase:
        """The provider these name; UsageError for options of a source without one."""
        given = self.arguments()
        return make_provider(self.backend, **given) if given else get_provider(self.backend, catalog=self.catalog)

    def arguments(self) -> dict[str, Any]:
        """What :func:`make_provider` takes beside the backend; empty where the catalogue says it all."""
        options = self._backend_options()
        if not self.source:
            declared = [name for name in ("collection", "bands", "scale", "unit", "date") if self._declared(name)]
            if declared:
                raise click.UsageError(f"--source-{declared[0]} says what --source holds; there is no --source")
            return {**options, "catalog": self.catalog} if options else {}
        if self.source_collection is None:
            raise click.UsageError("--source needs --source-collection: what the files hold is declared, not guessed")
        return {
            "catalog": self.catalog,
            "source": self.source[0] if len(self.source) == 1 else list(self.source),
            "collection": self.source_collection,
            "bands": names(self.source_bands),
            "scale": self.source_scale,
            "offset": self.source_offset,
            "unit": self.source_unit,
            "datetime": self.source_date,
            **options,
        }

    def _backend_options(self) -> dict[str, Any]:
        if self.backend_options is None:
            return {}
        try:
            options = json.loads(self.backend_options)
        except ValueError as exc:
            raise click.UsageError(f"--backend-options takes a JSON object, got {self.backend_options!r}") from exc
        if not isinstance(options, dict):
            raise click.UsageError(f"--backend-options takes a JSON object, got {self.backend_options!r}")
        return options

    def _declared(self, name: str) -> bool:
        return getattr(self, f"source_{name}") is not None


def _known_backend(ctx: click.Context, param: click.Parameter, value: str) -> str:
    # Asked for only now: plug-ins add names.
    try:
        return known_backend(value)
    except SpecError as exc:
        raise click.BadParameter(f"{exc}.", ctx, param) from exc


imagery_options = together(
    click.option(
        "--backend", metavar=f"[{'|'.join(['auto', *BACKENDS, LOCAL])}]", callback=_known_backend, default="auto",
        show_default=True,
        help="Where imagery comes from. auto: raster with --source, stac with --catalog, else gee where a project is "
        "configured, else stac (no credentials). local: published embeddings alone.",
    ),
    click.option("--catalog", metavar="PATH|URL", help="STAC catalogue or API (backend stac) [default: Earth Search]."),
    click.option("--source", metavar="PATH", multiple=True, help="Your own GeoTIFFs or a folder of them (backend "
                 "raster); repeatable. Say what they hold with the --source-* options."),
    click.option("--source-collection", metavar="NAME", help="Collection of the files, such as "
                 "COPERNICUS/S2_SR_HARMONIZED."),
    click.option("--source-bands", metavar="A,B,...", help="Their bands in order [default: their descriptions]."),
    click.option("--source-scale", type=float, help="Reflectance = stored * scale + offset (0.0001 for DN)."),
    click.option("--source-offset", type=float, default=0.0, help="See --source-scale [default: 0]."),
    click.option("--source-unit", type=click.Choice(["dB", "linear"]), help="Unit of radar files."),
    click.option("--source-date", metavar="DAY", help="Their date [default: the files' own tag]."),
    click.option("--backend-options", metavar="JSON", help="Options of a backend that a plug-in adds "
                 "(RSEMBED_PLUGINS), as a JSON object."),
)  # fmt: skip


# What is fetched ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SensorOptions:
    """What to fetch instead of what the model's card says, as given."""

    collection: str | None
    bands: str | None
    scale_m: float | None
    cloudy_pct: float | None
    fill_value: float | None
    composite: str | None

    def sensor(self, modality: str | None = None) -> SensorSpec | None:
        """A full sensor when a collection is named; UsageError when its bands are not."""
        if (self.collection is None) != (self.bands is None):
            raise click.UsageError("--collection and --bands need each other")
        if self.collection is None:
            return None
        given = {name: value for name, value in self._settings().items() if value is not None}
        given.setdefault("cloudy_pct", "recipe")
        return SensorSpec(self.collection, names(self.bands) or (), modality=modality, **given)

    def fetch(self) -> FetchSpec | None:
        """Overrides of single settings when no collection is named."""
        settings = self._settings()
        if self.collection is not None or all(value is None for value in settings.values()):
            return None
        return FetchSpec(**settings)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("scale_m", "cloudy_pct", "fill_value", "composite")}


sensor_options = together(
    click.option("--collection", metavar="NAME", help="Fetch this collection instead of the model's; needs --bands."),
    click.option("--bands", metavar="A,B,...", help="Bands of --collection, in the model's order."),
    click.option("--scale-m", type=float, help="Metres a pixel [default: the model's]."),
    click.option("--cloudy-pct", type=click.FloatRange(0, 100), help="Keep scenes with at most this cloud cover, and "
                 "never relax it [default: the recipe's rule]."),
    click.option("--fill-value", type=float, help="What stands where there is no data, in raw units [default: the "
                 "model's]."),
    click.option("--composite", type=click.Choice(COMPOSITES), help="How scenes of a window merge [default: the "
                 "model's]."),
)  # fmt: skip


def names(text: str | None) -> tuple[str, ...] | None:
    """``a,b`` as a tuple; None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


# The model ------------------------------------------------------------------------------------

recipe_options = together(
    click.option("--recipe", type=click.Choice(RECIPES), default="authors", show_default=True,
                 help="authors: what the model's authors do; rs-embed: what the reference system does."),
    click.option("--context", type=click.Choice(["native", "none"]), help="For regions smaller than the model's input: "
                 "fetch what lies around (native), or resize up (none) [default: the recipe's]."),
    click.option("--modality", help="Which of the model's inputs to use, such as s1 [default: its first]."),
)  # fmt: skip


def as_recipe(text: str) -> Recipe:
    """A choice that click has checked."""
    return cast("Recipe", text)


def model_request(text: str, sensor: SensorOptions, modality: str | None) -> ExportModelRequest:
    """``NAME[:option=value,...][@LABEL]`` with the sensor and modality of the whole command."""
    parsed = ExportModelRequest.parse(text)
    chosen = parsed.modality or modality
    return ExportModelRequest(
        parsed.name, sensor.sensor(chosen), sensor.fetch(), chosen, parsed.model_config, parsed.label
    )


def model_options(request: ExportModelRequest) -> dict[str, Any]:
    """The model's own options by keyword; ModelError for what is none, such as a keyword of the call."""
    resolve_options(REGISTRY.get(request.name).card, request.model_config)
    return dict(request.model_config)


def out_path(text: str | None) -> Path | None:
    """A path given as text, with ``~``."""
    return None if text is None else Path(text).expanduser()
