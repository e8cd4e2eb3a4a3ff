"""Imagery through STAC: a static catalogue of Cloud-Optimised GeoTIFFs, or a STAC API. Needs no credentials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.providers.assembly import assemble
from rsembed.providers.catalogs import ApiCatalog, StaticCatalog, open_catalog
from rsembed.providers.collections import CollectionInfo, collection_info, of_constellation
from rsembed.providers.datasets import DatasetPool, RequestCounter, is_remote
from rsembed.providers.scenes import Asset, Scene
from rsembed.providers.selection import whole_window

EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
"""The credential-free default: Element84's catalogue of Sentinel-2 Cloud-Optimised GeoTIFFs."""
EARTH_SEARCH_PAID = frozenset(("sentinel-1-grd", "sentinel-2-l1c"))
"""What it lists but cannot give away: files in buckets that charge whoever reads them (registry.opendata.aws).

Its links to Level-1C scenes before July 2023 are wrong besides (Element84/earth-search issue 73).
"""


class StacProvider:
    """A :class:`~rsembed.providers.base.ProviderBase` over the STAC catalogue at ``catalog``.

    ``catalog``: the path or URL of a static ``catalog.json``, or the URL of a STAC API. It is opened on
    first use. ``sign`` turns an asset's href into one that may be read (for services that hand out
    short-lived links). ``requester_pays``: the user's AWS account pays for buckets that ask for it.
    """

    name = "stac"

    def __init__(
        self,
        catalog: str | Path = EARTH_SEARCH,
        *,
        sign: Callable[[str], str] | None = None,
        requester_pays: bool = False,
        max_open_files: int = 384,
    ) -> None:
        self._href = _catalog_href(catalog)
        self._sign = sign
        self._pays = requester_pays
        self._pool = DatasetPool(max_open_files)
        self._lock = threading.Lock()
        self._opened: StaticCatalog | ApiCatalog | None = None

    def describe(self) -> Mapping[str, Json]:
        """The catalogue's URL, or for files on this machine their content's checksum, wherever they lie."""
        if is_remote(self._href):
            return {"backend": self.name, "catalog": self._href, "collections": None}
        catalog = self._catalog(RequestCounter())
        return {"backend": self.name, "catalog": catalog.identity, "collections": list(catalog.collections)}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError when the catalogue lacks the collection, or every scene of it a band, or asks a price."""
        if not self._pays:
            _refuse_paid(self._href, collection_info(recipe.collection))
        catalog = self._catalog(RequestCounter())
        info = self._info(catalog, recipe.collection)
        if not info.stac_ids:
            known = collection_info(recipe.collection)
            raise ProviderError(
                f"this catalogue has no {recipe.collection}"
                f"{'' if known.stac_ids == (recipe.collection,) else ' (STAC: ' + ', '.join(known.stac_ids) + ')'}; "
                f"it has {', '.join(catalog.collections) or 'nothing'}"
            )
        there = catalog.bands_of(info.stac_ids)
        known_bands = {band.name for band in info.bands} if there is None else there
        unknown = [band for band in bands if info.canonical(band) not in known_bands]
        if unknown and known_bands:
            raise ProviderError(
                f"{info.name} has no band {', '.join(unknown)} here; it has {', '.join(sorted(known_bands))}"
            )

    def fetch(self, request: FetchRequest) -> Patch:
        """The imagery of one row; see :class:`~rsembed.providers.base.ProviderBase`."""
        counter = RequestCounter()
        catalog = self._catalog(counter)
        info = self._info(catalog, request.recipe.collection)
        if not info.stac_ids:
            self.check(request.recipe, request.bands)
        found = catalog.search(info.stac_ids, request.grid, whole_window(request.bins), counter)
        if info.family == "unknown" and found:
            info = of_constellation(info.name, found[0].constellation)
        if self._sign is not None:
            found = [_signed(scene, self._sign) for scene in found]
        return assemble(request, found, info, pool=self._pool, counter=counter, backend=self.name)

    def close(self) -> None:
        """Close every open file."""
        self._pool.close()

    def _catalog(self, counter: RequestCounter) -> StaticCatalog | ApiCatalog:
        with self._lock:
            if self._opened is None:
                self._opened = open_catalog(self._href)
                counter.count += self._opened.reads
            return self._opened

    def _info(self, catalog: StaticCatalog | ApiCatalog, collection: str) -> CollectionInfo:
        info = collection_info(collection)
        if info.family == "unknown":
            info = of_constellation(collection, catalog.constellation_of(collection))
        return replace(info, stac_ids=tuple(i for i in info.stac_ids if i in catalog.collections))


def _refuse_paid(href: str, info: CollectionInfo) -> None:
    if urlsplit(href).netloc == urlsplit(EARTH_SEARCH).netloc and set(info.stac_ids) <= EARTH_SEARCH_PAID:
        raise ProviderError(
            f"Earth Search lists {', '.join(info.stac_ids)} but keeps its files where the reader pays; with an AWS "
            f"account, set AWS_REQUEST_PAYER=requester"
        )


def _catalog_href(catalog: str | Path) -> str:
    text = str(catalog)
    if is_remote(text):
        return text
    path = Path(text.removeprefix("file://")).expanduser().resolve()
    return str(path / "catalog.json" if path.is_dir() else path)


def _signed(scene: Scene, sign: Callable[[str], str]) -> Scene:
    assets: dict[str, Asset] = {name: replace(asset, href=sign(asset.href)) for name, asset in scene.assets.items()}
    return replace(scene, assets=assets)
