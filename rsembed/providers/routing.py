"""One provider for a whole run: published products from their own files, everything else from the run's backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.providers.base import ProviderBase

if TYPE_CHECKING:
    from rsembed.providers.products.provider import ProductsProvider


@runtime_checkable
class PartlyDescribed(Protocol):
    """A provider whose description depends on what is taken from it."""

    def describe_for(self, recipes: Sequence[FetchRecipe]) -> Mapping[str, Json]:
        """What identifies the sources that serve ``recipes``."""
        ...


def describe_for(provider: ProviderBase, recipes: Sequence[FetchRecipe]) -> Mapping[str, Json]:
    """What identifies ``provider`` as the source of ``recipes``: nothing that they do not use."""
    if isinstance(provider, PartlyDescribed):
        return provider.describe_for(recipes)
    return provider.describe()


class NoImagery:
    """A :class:`~rsembed.providers.base.ProviderBase` without imagery, for what is read from published files alone."""

    name = "local"

    def describe(self) -> Mapping[str, Json]:
        """See ProviderBase."""
        return {"backend": self.name}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """See ProviderBase: nothing is served."""
        raise ProviderError(f"the backend local reads published embeddings, and {recipe.collection} is imagery")

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase: refused as by :meth:`check`."""
        self.check(request.recipe, request.bands)
        raise AssertionError("check always raises")

    def close(self) -> None:
        """See ProviderBase."""


class RoutedProvider:
    """A :class:`~rsembed.providers.base.ProviderBase`: ``backend``, but for the products that are read from files.

    A recipe says itself that it wants a product (``FetchRecipe.product``), which one and where it lies, so the
    description of a source never has to. ``products`` is made when the first one is wanted.
    """

    def __init__(self, backend: ProviderBase, products: Callable[[], ProductsProvider]) -> None:
        self.backend = backend
        self.name = backend.name
        self._make_products = products
        self._products: ProductsProvider | None = None

    def describe(self) -> Mapping[str, Json]:
        """See ProviderBase: the backend's."""
        return self.backend.describe()

    def describe_for(self, recipes: Sequence[FetchRecipe]) -> Mapping[str, Json]:
        """The backend's description, unless nothing is taken from it."""
        if recipes and all(recipe.product is not None for recipe in recipes):
            return self._files().describe()
        return self.backend.describe()

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """See ProviderBase."""
        self._source(recipe).check(recipe, bands)

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase."""
        return self._source(request.recipe).fetch(request)

    def close(self) -> None:
        """See ProviderBase."""
        self.backend.close()
        if self._products is not None:
            self._products.close()

    def _source(self, recipe: FetchRecipe) -> ProviderBase:
        return self.backend if recipe.product is None else self._files()

    def _files(self) -> ProductsProvider:
        # Two threads at once make two, of which one is kept: both do the same.
        if self._products is None:
            self._products = self._make_products()
        return self._products
