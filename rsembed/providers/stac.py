"""Imagery through STAC: a static catalogue of Cloud-Optimised GeoTIFFs, or a STAC API. Needs no credentials."""

from __future__ import annotations

import logging
import threading
import warnings
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
from rsembed.providers.datasets import DatasetPool, is_remote
from rsembed.providers.offsets import OffsetCheck
from rsembed.providers.remote import RemoteFiles
from rsembed.providers.scenes import Scene
from rsembed.providers.selection import whole_window
from rsembed.providers.signing import PLANETARY_COMPUTER, PlanetaryComputerSigner
from rsembed.providers.transport import RangeClient, RequestCounter

logger = logging.getLogger(__name__)

EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
"""The credential-free default: Element84's catalogue of Sentinel-2 Cloud-Optimised GeoTIFFs."""
EARTH_SEARCH_PAID = frozenset(("sentinel-1-grd", "sentinel-2-l1c"))
"""What it lists but cannot give away: files in buckets that charge whoever reads them (registry.opendata.aws).

Its links to Level-1C scenes before July 2023 are wrong besides (Element84/earth-search issue 73).
"""

SUBSTITUTES = {
    "sentinel-1-rtc": "gamma0, corrected for terrain, in place of the sigma0 of COPERNICUS/S1_GRD (other on slopes)",
}
"""Collections that stand in for another one where they are asked for by name, and how they differ."""
UNCALIBRATED = frozenset(((PLANETARY_COMPUTER, "sentinel-1-grd"), (urlsplit(EARTH_SEARCH).netloc, "sentinel-1-grd")))
"""(catalogue, collection): the products as ESA delivers them; told here so that a plan, not each row, says so."""
DOCUMENTED_UNITS = {(PLANETARY_COMPUTER, "sentinel-1-rtc"): "linear"}
"""(catalogue, collection) -> unit that its documentation states and its items do not.

Its description says calibrated intensity, gamma: github.com/microsoft/planetary-computer-tasks,
datasets/sentinel-1-rtc/collection/description.md.
"""


class StacProvider:
    """A :class:`~rsembed.providers.base.ProviderBase` over the STAC catalogue at ``catalog``.

    ``catalog``: the path or URL of a static ``catalog.json``, or the URL of a STAC API. It is opened on
    first use. ``sign`` turns an asset's href into one that may be read, whenever it is read (for services
    that hand out short-lived links; the Planetary Computer's is known). ``requester_pays``: the user's AWS
    account pays for buckets that ask for it. ``cache_dir``: where answers of a STAC API are kept between
    processes; None: nowhere. ``timeout_s``: patience with a silent file server.
    """

    name = "stac"

    def __init__(
        self,
        catalog: str | Path = EARTH_SEARCH,
        *,
        sign: Callable[[str], str] | None = None,
        requester_pays: bool = False,
        max_open_files: int = 384,
        cache_dir: Path | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._href = _catalog_href(catalog)
        self._host = urlsplit(self._href).netloc
        if sign is None and self._host == PLANETARY_COMPUTER:
            sign = PlanetaryComputerSigner()
        self._pays = requester_pays
        self._cache_dir = cache_dir
        self._pool = DatasetPool(
            max_open_files, remote=RemoteFiles(RangeClient(sign=sign, timeout_s=timeout_s)), sign=sign
        )
        self._offsets = OffsetCheck(self._pool)
        self._lock = threading.Lock()
        self._opened: StaticCatalog | ApiCatalog | None = None

    def describe(self) -> Mapping[str, Json]:
        """The catalogue's URL, or for files on this machine their content's checksum, wherever they lie."""
        if is_remote(self._href):
            return {"backend": self.name, "catalog": self._href, "collections": None}
        catalog = self._catalog(RequestCounter())
        return {"backend": self.name, "catalog": catalog.identity, "collections": list(catalog.collections)}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError when the catalogue lacks the collection, or every scene of it a band, or asks a price.

        Warns where the collection is a substitute for what models are trained on.
        """
        if recipe.collection in SUBSTITUTES:
            logger.warning("substitute", extra={"collection": recipe.collection})
            warnings.warn(f"{recipe.collection} gives {SUBSTITUTES[recipe.collection]}", stacklevel=2)
        known = collection_info(recipe.collection)
        if not self._pays:
            _refuse_paid(self._href, known)
        if known.stac_ids and (self._host, known.stac_ids[0]) in UNCALIBRATED:
            raise ProviderError(
                f"{known.stac_ids[0]} of {self._host} holds digital numbers, not the calibrated backscatter of "
                f"{recipe.collection}. Use the Planetary Computer's sentinel-1-rtc by that name (gamma0, not sigma0), "
                f"or another source"
            )
        catalog = self._catalog(RequestCounter())
        info = self._info(catalog, recipe.collection)
        if not info.stac_ids:
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
        unit = DOCUMENTED_UNITS.get((self._host, request.recipe.collection))
        if unit is not None:
            found = [_of_unit(scene, unit) for scene in found]
        patch = assemble(
            request, found, info, pool=self._pool, counter=counter, backend=self.name, offsets=self._offsets
        )
        substitute = SUBSTITUTES.get(info.name)
        return (
            patch if substitute is None else replace(patch, provenance={**patch.provenance, "substitute": substitute})
        )

    def close(self) -> None:
        """Close every open file and connection."""
        self._pool.close()
        with self._lock:
            if self._opened is not None:
                self._opened.close()

    def _catalog(self, counter: RequestCounter) -> StaticCatalog | ApiCatalog:
        with self._lock:
            if self._opened is None:
                self._opened = open_catalog(self._href, self._cache_dir)
                counter.add(self._opened.reads)
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


def _of_unit(scene: Scene, unit: str) -> Scene:
    assets = {name: replace(asset, unit=asset.unit or unit) for name, asset in scene.assets.items()}
    return replace(scene, assets=assets)
