"""Where scenes come from: a static STAC catalogue, read once, or a STAC API, searched by cell and cached."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError
from rsembed.core.fetching import Grid
from rsembed.core.specs import Window
from rsembed.providers.blocks import SharedCache
from rsembed.providers.datasets import is_remote
from rsembed.providers.items import scene_from_item
from rsembed.providers.loaders import LoaderThreads
from rsembed.providers.scenes import Scene, SceneIndex, grid_bounds
from rsembed.providers.search_cache import SearchCache
from rsembed.providers.transport import RequestCounter

if TYPE_CHECKING:
    from requests import Response

TIMEOUT_S = 60
MAX_SEARCHES = 128
"""Answers kept in memory; that of a cell and a quarter of Sentinel-2 has about a megabyte."""
PAGE_SIZE = 200
CELL_DEGREES = 1.0
SEARCHES_AT_ONCE = 8


def read_json(href: str) -> Mapping[str, Any]:
    """The JSON object at ``href`` (path or URL). Raises ProviderError and its kin."""
    try:
        if is_remote(href):
            with urllib.request.urlopen(href, timeout=TIMEOUT_S) as reply:  # noqa: S310  # the user names the catalogue
                found = json.load(reply)
        else:
            found = json.loads(Path(href.removeprefix("file://")).read_text(encoding="utf-8"))
    except urllib.error.HTTPError as exc:
        raise http_error(exc.code, href, exc) from exc
    except FileNotFoundError as exc:
        raise ProviderError(f"the STAC catalogue names {href}, which is not there") from exc
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise ProviderError(f"{href} is not JSON ({exc}); point --catalog at a catalog.json or a STAC API") from exc
    except OSError as exc:
        raise (TransientProviderError if is_remote(href) else ProviderError)(f"{href} cannot be read: {exc}") from exc
    if not isinstance(found, dict):
        raise ProviderError(f"{href} holds no JSON object; point --catalog at a catalog.json or a STAC API")
    return found


def http_error(code: int | None, what: str, exc: BaseException) -> ProviderError:
    """The error of our own tree for an HTTP answer ``code`` (None: no answer at all) from a catalogue."""
    if code == 429 or (code == 403 and '"Forbidden"' in str(exc)):
        # Earth Search answers {"message":"Forbidden"} where it throttles (Element84/earth-search issue 19).
        return QuotaError(f"{what}: the catalogue asks to slow down ({exc})")
    if code in (401, 403):
        return AuthError(f"{what}: the catalogue wants credentials ({exc})")
    if code is None or code >= 500:
        return TransientProviderError(f"{what}: the catalogue does not answer ({exc})")
    return ProviderError(f"{what}: the catalogue refuses, HTTP {code} ({exc})")


def resolver(base: str) -> Any:
    """A function that makes hrefs absolute against the document ``base`` (path or URL)."""

    def resolve(href: str) -> str:
        if urlsplit(href).scheme or href.startswith("/"):
            return urljoin(base, href) if href.startswith("/") and is_remote(base) else href
        return urljoin(base, href) if is_remote(base) else str((Path(base).parent / href).resolve())

    return resolve


class StaticCatalog:
    """A catalogue of linked files; all its items are read when it is opened. ``landing``: what lies at ``href``."""

    def __init__(self, href: str, landing: Mapping[str, Any]) -> None:
        self._landing = landing
        self._fingerprint: list[str] = []
        self.reads = 0
        scenes: list[Scene] = []
        self._names: set[str] = set()
        self._walk(href, scenes)
        self.index = SceneIndex(scenes)
        self.collections: tuple[str, ...] = tuple(sorted({s.collection for s in scenes} | self._names))

    def _walk(self, start: str, scenes: list[Scene]) -> None:
        pending, seen = [start], set()
        while pending:
            href = pending.pop()
            if href in seen:
                continue
            seen.add(href)
            document = self._landing if href == start else read_json(href)
            self.reads += is_remote(href)
            resolve = resolver(href)
            if document.get("type") == "Feature":
                scenes.append(scene_from_item(document, resolve))
                self._fingerprint.append(_identity(document))
                continue
            if document.get("type") == "Collection":
                self._names.add(str(document.get("id")))
            links = document.get("links") or []
            pending += [resolve(link["href"]) for link in links if link.get("rel") in ("child", "item")]

    def search(self, ids: Sequence[str], grid: Grid, window: Window, counter: RequestCounter) -> list[Scene]:
        """The scenes of the collections ``ids`` that meet ``grid`` in ``window``."""
        del counter  # nothing is asked of anybody
        return [s for s in self.index.search(grid_bounds(grid), window) if s.collection in ids]

    def close(self) -> None:
        """Nothing is open."""

    def bands_of(self, ids: Sequence[str]) -> set[str] | None:
        """Every band that some scene of ``ids`` has."""
        return {band for s in self.index.scenes if s.collection in ids for band in s.assets}

    def constellation_of(self, collection: str) -> str | None:
        """The constellation that the items of ``collection`` state."""
        return next((s.constellation for s in self.index.scenes if s.collection == collection), None)

    @cached_property
    def identity(self) -> str:
        """What the catalogue is, wherever it lies: a sha256 over its items' content."""
        return "sha256:" + hashlib.sha256("\n".join(sorted(self._fingerprint)).encode()).hexdigest()


def _identity(item: Mapping[str, Any]) -> str:
    properties = item.get("properties") or {}
    assets = item.get("assets") or {}
    parts = [item.get("collection"), item.get("id"), properties.get("datetime"), properties.get("updated")]
    parts += sorted(f"{key}={asset.get('href')}={asset.get('file:checksum', '')}" for key, asset in assets.items())
    return json.dumps(parts)


class ApiCatalog:
    """A STAC API: one search a cell of one degree and quarter of a year, then from memory and ``cache``."""

    def __init__(self, url: str, cache: SearchCache | None = None) -> None:
        self._url = url
        self._cache = cache
        self._lock = threading.Lock()
        self._searches: SharedCache[SceneIndex] = SharedCache(MAX_SEARCHES)
        self._asking = threading.local()
        self._threads = LoaderThreads(SEARCHES_AT_ONCE)
        self._constellations: dict[str, str | None] = {}
        io = StacApiIO(timeout=TIMEOUT_S)
        io.session.hooks["response"].append(self._answered)
        try:
            self._client = Client.open(url, stac_io=io)
        except APIError as exc:
            raise http_error(exc.status_code, url, exc) from exc
        self.identity = url
        self.reads = 1

    @cached_property
    def collections(self) -> tuple[str, ...]:
        """Ids of the API's collections; asked once."""
        try:
            return tuple(sorted(c.id for c in self._client.get_collections()))
        except APIError as exc:
            raise http_error(exc.status_code, self._url, exc) from exc

    def search(self, ids: Sequence[str], grid: Grid, window: Window, counter: RequestCounter) -> list[Scene]:
        """The scenes of the collections ``ids`` that meet ``grid`` in ``window``; cached searches are free."""
        bounds = grid_bounds(grid)
        wanted = [(tuple(ids), cell, quarter) for cell in degree_cells(bounds) for quarter in quarters(window)]
        held = [self._searches.held(key) for key in wanted]
        if held.count(None) > 1:  # a year is four searches: beside each other, not one after the other
            asked = [self._threads.submit(partial(self._cell, *key, counter)) for key in wanted]
            indices = [future.result() for future in asked]
        else:
            pairs = zip(wanted, held, strict=True)
            indices = [self._cell(*key, counter) if index is None else index for key, index in pairs]
        found = {(s.collection, s.id): s for index in indices for s in index.search(bounds, window)}
        return [found[key] for key in sorted(found)]

    def close(self) -> None:
        """End its threads."""
        self._threads.close()

    def bands_of(self, ids: Sequence[str]) -> set[str] | None:
        """Not known without a search."""
        del ids
        return None

    def constellation_of(self, collection: str) -> str | None:
        """The constellation in the summaries of ``collection``; None where it states none."""
        if collection not in self.collections:
            return None
        if collection in self._constellations:
            return self._constellations[collection]
        try:
            found = self._client.get_collection(collection)
        except APIError as exc:
            raise http_error(exc.status_code, self._url, exc) from exc
        summaries = found.to_dict().get("summaries") or {} if found is not None else {}
        stated = next(iter(summaries.get("constellation") or summaries.get("platform") or ()), None)
        self._constellations[collection] = stated
        return stated

    def _cell(
        self, ids: tuple[str, ...], cell: tuple[float, float], quarter: Window, counter: RequestCounter
    ) -> SceneIndex:
        def make() -> SceneIndex:
            kept = None if self._cache is None else self._cache.get(ids, cell, quarter)
            if kept is not None:
                return SceneIndex(kept)
            self._asking.counter = counter
            try:
                scenes = self._ask(ids, cell, quarter)
            finally:
                self._asking.counter = None
            if self._cache is not None:
                self._cache.put(ids, cell, quarter, scenes)
            return SceneIndex(scenes)

        # Threads that want the same cell wait for the first one's answer; others go on.
        return self._searches.get((ids, cell, quarter), make)

    def _answered(self, response: Response, *_: object, **__: object) -> None:
        counter: RequestCounter | None = getattr(self._asking, "counter", None)
        if counter is not None:
            counter.add(1, len(response.content))

    def _ask(self, ids: tuple[str, ...], cell: tuple[float, float], span: Window) -> list[Scene]:
        west, south = cell
        last = dt.datetime.combine(span.end, dt.time(), dt.UTC) - dt.timedelta(seconds=1)
        search = self._client.search(
            collections=list(ids),
            bbox=[west, south, west + CELL_DEGREES, south + CELL_DEGREES],
            datetime=f"{span.start.isoformat()}T00:00:00Z/{last.strftime('%Y-%m-%dT%H:%M:%SZ')}",
            limit=PAGE_SIZE,
        )
        try:
            return [scene_from_item(item, resolver(_self_href(item, self._url))) for item in search.items_as_dicts()]
        except APIError as exc:
            raise http_error(exc.status_code, f"{self._url} search {west:g},{south:g} {span}", exc) from exc


def _self_href(item: Mapping[str, Any], url: str) -> str:
    return str(next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), url))


def degree_cells(bounds: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    """South-west corners of the whole-degree cells that ``bounds`` (degrees, east may exceed 180) meets."""
    west, south, east, north = bounds
    lons = range(math.floor(west / CELL_DEGREES), math.floor(east / CELL_DEGREES) + 1)
    lats = range(math.floor(south / CELL_DEGREES), math.floor(north / CELL_DEGREES) + 1)
    return [((lon * CELL_DEGREES + 180) % 360 - 180, lat * CELL_DEGREES) for lon in lons for lat in lats]


def quarters(window: Window) -> list[Window]:
    """The quarters of the year that ``window`` meets, so that rows of nearby dates share a search."""
    found: list[Window] = []
    start = dt.date(window.start.year, (window.start.month - 1) // 3 * 3 + 1, 1)
    while start < window.end:
        following = dt.date(start.year + start.month // 10, (start.month + 2) % 12 + 1, 1)
        found.append(Window(start, following))
        start = following
    return found


def open_catalog(href: str, cache_dir: Path | None = None) -> StaticCatalog | ApiCatalog:
    """The catalogue at ``href``: an API where the landing page links a search or conforms to one.

    ``cache_dir``: where answers of an API are kept between processes; None: nowhere.
    """
    landing = read_json(href)
    links = landing.get("links") or []
    searchable = any(link.get("rel") == "search" for link in links)
    conforms = any("item-search" in str(c) for c in landing.get("conformsTo") or [])
    if not (is_remote(href) and (searchable or conforms)):
        return StaticCatalog(href, landing)
    return ApiCatalog(href, None if cache_dir is None else SearchCache(cache_dir / "stac", href))
