"""Where scenes come from: a static STAC catalogue, read once, or a STAC API, searched by tile and cached."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from pystac_client import Client
from pystac_client.exceptions import APIError

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError
from rsembed.core.fetching import Grid
from rsembed.core.specs import Window
from rsembed.providers.datasets import RequestCounter, is_remote
from rsembed.providers.items import scene_from_item
from rsembed.providers.scenes import Scene, SceneIndex, grid_bounds

TIMEOUT_S = 60
MAX_SEARCHES = 256
PAGE_SIZE = 200
TILE_DEGREES = 1.0


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
    """A catalogue of linked files; all its items are read when it is opened."""

    def __init__(self, href: str) -> None:
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
            document = read_json(href)
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
    """A STAC API: one search per collections, tile of one degree and quarter-year span, then from memory."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._searches: OrderedDict[tuple[Any, ...], SceneIndex] = OrderedDict()
        self._running: dict[tuple[Any, ...], threading.Lock] = {}
        self._constellations: dict[str, str | None] = {}
        try:
            self._client = Client.open(url, timeout=TIMEOUT_S)
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
        span = quarters(window)
        found: dict[tuple[str, str], Scene] = {}
        for tile in degree_tiles(bounds):
            index = self._tile(tuple(ids), tile, span, counter)
            found.update({(s.collection, s.id): s for s in index.search(bounds, window)})
        return [found[key] for key in sorted(found)]

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

    def _tile(
        self, ids: tuple[str, ...], tile: tuple[float, float], span: Window, counter: RequestCounter
    ) -> SceneIndex:
        key = (ids, tile, span)
        with self._lock:
            running = self._running.setdefault(key, threading.Lock())
        # Threads that want the same tile wait for the first one's answer; others go on.
        with running:
            with self._lock:
                if key in self._searches:
                    self._searches.move_to_end(key)
                    return self._searches[key]
            counter.count += 1
            index = SceneIndex(self._ask(ids, tile, span))
            with self._lock:
                self._searches[key] = index
                while len(self._searches) > MAX_SEARCHES:
                    dropped, _ = self._searches.popitem(last=False)
                    self._running.pop(dropped, None)
            return index

    def _ask(self, ids: tuple[str, ...], tile: tuple[float, float], span: Window) -> list[Scene]:
        west, south = tile
        last = dt.datetime.combine(span.end, dt.time(), dt.UTC) - dt.timedelta(seconds=1)
        search = self._client.search(
            collections=list(ids),
            bbox=[west, south, west + TILE_DEGREES, south + TILE_DEGREES],
            datetime=f"{span.start.isoformat()}T00:00:00Z/{last.strftime('%Y-%m-%dT%H:%M:%SZ')}",
            limit=PAGE_SIZE,
        )
        try:
            return [scene_from_item(item, resolver(_self_href(item, self._url))) for item in search.items_as_dicts()]
        except APIError as exc:
            raise http_error(exc.status_code, f"{self._url} search {west:g},{south:g} {span}", exc) from exc


def _self_href(item: Mapping[str, Any], url: str) -> str:
    return str(next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), url))


def degree_tiles(bounds: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    """South-west corners of the whole-degree tiles that ``bounds`` (degrees, east may exceed 180) meets."""
    west, south, east, north = bounds
    lons = range(math.floor(west / TILE_DEGREES), math.floor(east / TILE_DEGREES) + 1)
    lats = range(math.floor(south / TILE_DEGREES), math.floor(north / TILE_DEGREES) + 1)
    return [((lon * TILE_DEGREES + 180) % 360 - 180, lat * TILE_DEGREES) for lon in lons for lat in lats]


def quarters(window: Window) -> Window:
    """``window`` widened to whole quarters of the year, so that rows of nearby dates share a search."""
    start = dt.date(window.start.year, (window.start.month - 1) // 3 * 3 + 1, 1)
    last = window.end - dt.timedelta(days=1)
    month = (last.month - 1) // 3 * 3 + 4
    return Window(start, dt.date(last.year + month // 13, (month - 1) % 12 + 1, 1))


def open_catalog(href: str) -> StaticCatalog | ApiCatalog:
    """The catalogue at ``href``: an API where the landing page links a search or conforms to one."""
    landing = read_json(href)
    links = landing.get("links") or []
    searchable = any(link.get("rel") == "search" for link in links)
    conforms = any("item-search" in str(c) for c in landing.get("conformsTo") or [])
    return ApiCatalog(href) if is_remote(href) and (searchable or conforms) else StaticCatalog(href)
