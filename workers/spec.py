"""A run as plain JSON, and back into exactly the plan that was submitted, on any machine.

A spec holds what was asked (:class:`~rsembed.pipelines.request.RunRequest`), where imagery
comes from, which weights were locked, and the description that the fingerprint was made of.
Whoever takes it out of the ledger plans again and compares: code that would do something else
refuses, instead of mixing two kinds of results in one dataset.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from rsembed.core.errors import ProviderError, SpecError
from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.core.serialization import differences, from_json, to_json
from rsembed.core.settings import Settings
from rsembed.embedders.weights import WeightsPin
from rsembed.pipelines.plan import FORMAT_VERSION, RunPlan, fingerprint, plan_run, with_models
from rsembed.pipelines.request import RunRequest
from rsembed.pipelines.rows.table import RowTable
from rsembed.providers.base import ProviderBase
from rsembed.providers.factory import make_provider, resolve_backend
from rsembed.providers.routing import describe_for
from rsembed.version import __version__
from workers.carried import schema_from_json, schema_to_json

SPEC_VERSION = 2
"""Raised whenever an older version of this code could not read a spec, or would read it wrongly."""


class PlanMismatchError(SpecError):
    """This code would not do what was submitted; another version of it has to."""

    error_class = "version"


@dataclass(frozen=True)
class ProviderSpec:
    """Where imagery comes from, definite: the arguments of :func:`~rsembed.providers.factory.make_provider`.

    ``declared``: what is said of a raster's content, or the options of a backend that was
    registered from outside. ``project``: of Earth Engine.
    """

    backend: str
    catalog: str | None = None
    source: tuple[str, ...] = ()
    collection: str | None = None
    bands: tuple[str, ...] | None = None
    declared: Mapping[str, Json] = field(default_factory=dict)
    project: str | None = None

    @classmethod
    def resolve(
        cls,
        backend: str | None,
        settings: Settings,
        *,
        catalog: str | Path | None = None,
        source: Sequence[str | Path] = (),
        collection: str | None = None,
        bands: Sequence[str] | None = None,
        **declared: Json,
    ) -> ProviderSpec:
        """Whatever the environment of the submitter decides is decided here: workers need not share it.

        Files are named by absolute paths; the workers must see them there. Raises SpecError.
        """
        name = resolve_backend(backend, catalog=catalog, source=source or None, settings=settings)
        if name == "stac":
            catalog = catalog or settings.stac_url
        return cls(
            backend=name,
            catalog=None if catalog is None else _absolute(str(catalog)),
            source=tuple(_absolute(str(each)) for each in source),
            collection=collection,
            bands=None if bands is None else tuple(bands),
            declared={key: value for key, value in declared.items() if value is not None},
            project=settings.ee_project if name == "gee" else None,
        )

    def make(self, settings: Settings) -> ProviderBase:
        """The provider; raises SpecError or ProviderError."""
        source: Any = None
        if self.source:
            source = self.source[0] if len(self.source) == 1 else list(self.source)
        return make_provider(
            self.backend,
            catalog=self.catalog,
            source=source,
            collection=self.collection,
            bands=self.bands,
            settings=replace(settings, stac_url=None, ee_project=self.project),
            **self.declared,
        )


def _absolute(where: str) -> str:
    return where if "://" in where else str(Path(where).expanduser().absolute())


@dataclass(frozen=True)
class RunSpec:
    """Everything a worker needs to know of a run but its rows.

    ``request.device`` is a class (``cpu``, ``cuda``). ``description``: what the fingerprint is
    made of, rows included. ``weights``: label -> pin. ``carried``: (name, type) of the user's
    columns. ``submitted_by``: version of rsembed.
    """

    request: RunRequest
    provider: ProviderSpec
    description: Mapping[str, Json]
    fingerprint: str
    weights: Mapping[str, WeightsPin] = field(default_factory=dict)
    carried: tuple[tuple[str, str], ...] = ()
    npz: bool = False
    zarr: bool | None = None
    submitted_by: str = __version__
    version: int = SPEC_VERSION

    @classmethod
    def of(
        cls, plan: RunPlan, request: RunRequest, provider: ProviderSpec, table: RowTable,
        *, npz: bool = False, zarr: bool | None = None,
    ) -> RunSpec:  # fmt: skip
        """The spec of a plan whose weights are locked, over the rows of ``table``."""
        description = describe_run(plan, table)
        return cls(
            request, provider, description, fingerprint(description, table.digest),
            weights={m.label: _pin(m.weights) for m in plan.models if m.weights is not None},
            carried=schema_to_json(table.carried), npz=npz, zarr=zarr,
        )  # fmt: skip

    def to_json(self) -> dict[str, Json]:
        """Plain JSON; keys of the description stay as they are."""
        written = to_json(self)
        assert isinstance(written, dict)
        return written

    @classmethod
    def from_json(cls, value: Json) -> RunSpec:
        """What :meth:`to_json` wrote. Raises PlanMismatchError for a newer spec, SpecError for a damaged one."""
        version = value.get("version") if isinstance(value, Mapping) else None
        if isinstance(version, int) and version > SPEC_VERSION:
            by = value.get("submitted_by") if isinstance(value, Mapping) else None
            raise PlanMismatchError(
                f"the run was submitted by rsembed {by} (spec version {version}); this is rsembed {__version__}, which "
                f"reads up to {SPEC_VERSION}: update it"
            )
        return from_json(cls, value)

    @property
    def n_rows(self) -> int:
        """Rows of the run."""
        return int(cast("int", self._rows["count"]))

    @property
    def rows_digest(self) -> str:
        """Checksum over the rows in order."""
        return str(self._rows["digest"])

    @property
    def schema(self) -> pa.Schema:
        """Schema of the carried columns."""
        return schema_from_json(self.carried)

    @property
    def keep_inputs(self) -> bool:
        """Whether fetched pixels stay when the run has ended."""
        return self.request.config.keep_inputs

    @property
    def device_class(self) -> str:
        """``cpu`` or ``cuda``: what the inference workers of this run have to have."""
        return self.request.device.partition(":")[0]

    @property
    def _rows(self) -> Mapping[str, Json]:
        rows = self.description.get("rows")
        if not isinstance(rows, Mapping) or not {"count", "digest"} <= set(rows):
            raise SpecError("the run's description says nothing of its rows")
        return rows

    def plan(
        self,
        settings: Settings,
        with_weights: bool,
        *,
        device: str | None = None,
        labels: Collection[str] | None = None,
    ) -> RunPlan:
        """The submitted plan. Nothing is fetched, and no provider is opened (see :meth:`open_provider`).

        ``with_weights``: for a worker that embeds; the weights of ``labels`` (None: all models) are
        found or fetched by their pins, and ``device`` (None: the first of the run's class) is
        looked for. Without: torch is not loaded, and ``ModelPlan.weights`` are pins.

        Raises PlanMismatchError where this code would do something else than what was submitted,
        ModelError for a missing device or model, WeightsError for missing weights.
        """
        self._check_version()
        source = _StatedSource(self.provider.backend, self.description.get("provider"))
        plan = plan_run(self.request, source, settings, stated_device=True)
        plan = with_models(plan, [replace(m, weights=self.weights.get(m.label)) for m in plan.models])
        self._check_description({**plan.describe(), "rows": self.description["rows"]})
        if not with_weights:
            return plan
        models = list(plan.models)
        for i, model in enumerate(models):
            if labels is None or model.label in labels:
                model.embedder.resolve(settings, self.weights.get(model.label))
                models[i] = replace(model, device=model.embedder.resolve_device(self._device(model.device, device)))
        return with_models(plan, models)

    def open_provider(self, settings: Settings) -> ProviderBase:
        """The run's source of imagery, opened; raises ProviderError when it is no longer what it was."""
        provider = self.provider.make(settings)
        models = cast("list[Mapping[str, Json]]", self.description["models"])
        recipes = [from_json(FetchRecipe, model["fetch"]) for model in models]
        found: Json = to_json(dict(describe_for(provider, recipes)))
        planned = self.description.get("provider")
        if found != planned:
            provider.close()
            raise ProviderError(
                "the source of imagery is not the one that the run was planned for (there -> here): "
                + "; ".join(differences(planned, found)[:5])
            )
        return provider

    def _device(self, planned: str, given: str | None) -> str:
        """The device for a model planned on class ``planned``; a model without use for a GPU stays on the CPU."""
        if given is None or planned != self.device_class:
            return planned
        if given.partition(":")[0] != planned:
            raise PlanMismatchError(f"the run is for {planned}, this worker has {given}")
        return given

    def _check_version(self) -> None:
        written = self.description.get("format_version")
        if written != FORMAT_VERSION:
            raise PlanMismatchError(
                f"the run writes format version {written} (submitted by rsembed {self.submitted_by}); this is rsembed "
                f"{__version__}, which writes {FORMAT_VERSION}: use that version, or submit the run again"
            )

    def _check_description(self, mine: Mapping[str, Json]) -> None:
        # Through JSON text, as the stored one went: tuples and lists are one there.
        changed = differences(self.description, json.loads(json.dumps(to_json(mine))))
        if changed:
            raise PlanMismatchError(
                f"rsembed {__version__} would not do what was submitted by rsembed {self.submitted_by} "
                "(submitted -> here): " + "; ".join(changed[:5]) + "; use that version, or submit the run again"
            )
        if fingerprint(self.description, self.rows_digest) != self.fingerprint:
            raise PlanMismatchError("the run's fingerprint is not that of its description; submit the run again")


def describe_run(plan: RunPlan, table: RowTable) -> dict[str, Json]:
    """What a run's fingerprint is made of, as plain JSON: the same for a local export and the fleet."""
    # The span says nothing that the digest does not, but people understand it.
    rows: Json = {"count": table.n_rows, "digest": table.digest, "windows_within": str(table.span)}
    return {**plan.describe(), "rows": rows}


def _pin(weights: object) -> WeightsPin:
    return weights if isinstance(weights, WeightsPin) else cast("WeightsPin", getattr(weights, "pin"))  # noqa: B009 - a handle


class _StatedSource:
    """Stands for a provider where nothing is fetched: says what was said of it at submission."""

    def __init__(self, name: str, description: Json) -> None:
        self.name = name
        self._description = description if isinstance(description, Mapping) else {}

    def describe(self) -> Mapping[str, Json]:
        """See ProviderBase."""
        return self._description

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """See ProviderBase: the submitter has checked."""

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase; never called."""
        raise ProviderError("this worker does not fetch")

    def close(self) -> None:
        """See ProviderBase."""
