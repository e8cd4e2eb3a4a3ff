"""The provider of published products: each in its own files, wherever a run's imagery comes from."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.core.settings import Settings
from rsembed.providers.products import copernicus, tessera
from rsembed.providers.products.answers import BACKEND
from rsembed.providers.products.copernicus import CopernicusCells
from rsembed.providers.products.downloads import Downloader, Wanted
from rsembed.providers.products.tessera import TesseraTiles
from rsembed.providers.products.tile_files import PUBLISHED, TileFiles, TileSite
from rsembed.providers.transport import RequestCounter

COLLECTIONS = (copernicus.COLLECTION, tessera.COLLECTION)


class Product(Protocol):
    """A product in one place."""

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """See ProviderBase."""
        ...

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase."""
        ...

    def close(self) -> None:
        """See ProviderBase."""
        ...


class ProductsProvider:
    """A :class:`~rsembed.providers.base.ProviderBase` over published files of embeddings.

    What is downloaded goes to ``products`` in the cache folder of ``settings``, or into the folder that a recipe
    names. A recipe that names an address reads a mirror there, which has the layout of such a folder.
    """

    name = BACKEND

    def __init__(self, settings: Settings | None = None, *, downloader: Downloader | None = None) -> None:
        self._settings = settings or Settings.from_environment()
        self._downloader = downloader or Downloader(offline=self._settings.offline)
        self._lock = threading.Lock()
        self._products: dict[tuple[str, str | None], Product] = {}

    def describe(self) -> Mapping[str, Json]:
        """Nothing but the name: recipes say which product, and where it lies."""
        return {"backend": self.name}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError for another collection, for bands that are not there, or a folder that is not."""
        product = self._product(recipe)
        place = _location(recipe)
        if place is not None and "://" not in place and not Path(place).is_dir():
            raise ProviderError(f"there is no folder {place}; create it to have {recipe.collection} kept there")
        product.check(recipe, bands)

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase. ``provenance["requests"]`` counts downloads; what is there already costs none."""
        return self._product(request.recipe).fetch(request)

    def close(self) -> None:
        """Forget open files and idle connections."""
        with self._lock:
            for product in self._products.values():
                product.close()
            self._products.clear()
        self._downloader.close()

    def _product(self, recipe: FetchRecipe) -> Product:
        key = (recipe.collection, _location(recipe))
        with self._lock:
            if key not in self._products:
                self._products[key] = self._made(*key)
            return self._products[key]

    def _made(self, collection: str, place: str | None) -> Product:
        if collection not in COLLECTIONS:
            raise ProviderError(f"{collection} is none of the published products ({', '.join(COLLECTIONS)})")
        root, base = self._root(collection, place)
        if collection == tessera.COLLECTION:
            return TesseraTiles(TileFiles(root, PUBLISHED if base is None else TileSite(base), self._downloader))

        def find(counter: RequestCounter) -> Path:
            for pattern in copernicus.PATTERNS:
                if (there := min(root.glob(pattern), default=None)) is not None:
                    return there
            url = f"{base or copernicus.PUBLISHED}/{copernicus.FILE}"
            wanted = Wanted(url, at_least=copernicus.LEAST_BYTES if base is None else 0)
            return self._downloader.fetch(wanted, root / copernicus.FILE, counter)

        return CopernicusCells(find, self._settings.cache_dir / "products")

    def _root(self, collection: str, place: str | None) -> tuple[Path, str | None]:
        """Where files are kept, and the address of the mirror they come from (None: the published place)."""
        if place is not None and "://" not in place:
            return Path(place), None
        folder = self._settings.cache_dir / "products" / collection.lower().replace("/", "-")
        if place is None:
            return folder, None
        return folder / f"mirror-{hashlib.sha256(place.encode()).hexdigest()[:12]}", place


def _location(recipe: FetchRecipe) -> str | None:
    return None if recipe.product is None else recipe.product.location
