"""Which provider a run uses; the providers' own libraries are loaded only when one is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsembed.core.errors import ArgumentError, ProviderError, SpecError
from rsembed.core.settings import Settings
from rsembed.providers.base import ProviderBase
from rsembed.providers.routing import NoImagery, RoutedProvider

BACKENDS = ("gee", "stac", "raster")
LOCAL = "local"
"""No imagery at all: published embeddings from their files, and nothing else."""
_EXTRA = {"gee": "gee", "stac": "stac", "raster": "stac", "products.provider": "stac"}
_registered: dict[str, Callable[..., ProviderBase]] = {}


def register_backend(name: str, factory: Callable[..., ProviderBase]) -> None:
    """Make a source of imagery from outside the package known as backend ``name``.

    ``factory`` is called with the options of the request by keyword (plain JSON values), in every process
    that fetches, and returns a provider. A later registration wins. Raises SpecError for a name that is taken.
    """
    if name in ("auto", LOCAL, *BACKENDS) or name != name.strip().lower():
        raise SpecError(f"a backend cannot be registered as {name!r}: names are lower case, and not of our own")
    _registered[name] = factory


def backends() -> tuple[str, ...]:
    """Names of all backends: our own, then the registered ones."""
    return (*BACKENDS, *sorted(_registered))


def known_backend(name: str) -> str:
    """``name`` as backends are spelled, lower case and without spaces; an error that lists them for an unknown one."""
    key = name.strip().lower()
    if key not in ("auto", LOCAL, *backends()):
        raise ArgumentError(f"no backend {name!r}; there are auto, {', '.join(backends())}, {LOCAL}")
    return key


def resolve_backend(
    backend: str | None = None, *, catalog: str | Path | None = None, source: object = None, settings: Settings
) -> str:
    """The backend's name for a request; pure, so that a plan can print it.

    ``auto``: ``raster`` where a source is given, ``stac`` where a catalogue is, else what the environment names
    (RSEMBED_BACKEND), else ``gee`` when a project is configured, else ``stac``. ``local`` reads published
    embeddings alone. Raises SpecError for an unknown name or options that contradict it.
    """
    name = known_backend(backend or "auto")
    if name == "auto":
        if source is not None:
            name = "raster"
        elif catalog is not None:
            name = "stac"
        else:
            name = known_backend(settings.backend)
    if name == "auto":
        name = "gee" if settings.ee_project else "stac"
    if catalog is not None and name != "stac":
        raise SpecError(f"catalog= belongs to the backend stac, not to {name}")
    if source is not None and name != "raster":
        raise SpecError(f"source= belongs to the backend raster, not to {name}")
    return name


def make_provider(
    backend: str | None = None,
    *,
    catalog: str | Path | None = None,
    source: Any = None,
    collection: str | None = None,
    bands: Sequence[str] | None = None,
    settings: Settings | None = None,
    **declared: Any,
) -> ProviderBase:
    """A provider ready to be asked.

    ``catalog``: of ``stac`` (default: the environment's, then Earth Search). ``source``, ``collection``,
    ``bands`` and ``declared`` (``datetime``, ``scale``, ``offset``, ``unit``): of ``raster``, see
    :class:`~rsembed.providers.raster.RasterProvider`. Raises SpecError for a wrong choice, ProviderError
    where the backend's libraries are missing. ``local`` serves published products alone; beside our other
    backends they are read from their files as well. A registered backend is given ``declared``, and serves
    products itself or not at all.
    """
    settings = settings or Settings.from_environment()
    name = resolve_backend(backend, catalog=catalog, source=source, settings=settings)
    if name in _registered and collection is None and bands is None:
        return _registered_provider(name, declared)
    if name == "raster":
        if source is None:
            raise SpecError("the backend raster needs source=: a GeoTIFF, a folder of them, or a RasterArray")
        made = _class("raster", "RasterProvider")(source, collection=collection or "", bands=bands, **declared)
    elif collection is not None or bands is not None or declared:
        names = [n for n, v in (("collection", collection), ("bands", bands)) if v is not None] + sorted(declared)
        raise SpecError(f"{', '.join(names)} declare what a raster holds; the backend {name} takes none of them")
    elif name == LOCAL:
        made = NoImagery()
    elif name == "gee":
        made = _class("gee", "GeeProvider")(
            project=settings.ee_project, url=settings.ee_url, workload_tag=settings.ee_workload_tag
        )
    else:
        where = catalog or settings.stac_url
        given = {"catalog": where} if where else {}
        made = _class("stac", "StacProvider")(
            **given, requester_pays=settings.requester_pays, cache_dir=settings.cache_dir
        )
    return RoutedProvider(made, lambda: _class("products.provider", "ProductsProvider")(settings))


def _registered_provider(name: str, options: dict[str, Any]) -> ProviderBase:
    try:
        return _registered[name](**options)
    except TypeError as exc:
        raise SpecError(f"the backend {name} does not take {options}: {exc}") from exc


def _class(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"rsembed.providers.{module}"), name)
    except ModuleNotFoundError as exc:
        raise ProviderError(
            f"the backend {module} needs {exc.name}; install it with: pip install 'rsembed[{_EXTRA[module]}]'"
        ) from exc
