"""Recipes of products go to their files, all others to the backend; a description names only what is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid, ProductRules
from rsembed.core.settings import Settings
from rsembed.providers.base import ProviderBase
from rsembed.providers.products.provider import ProductsProvider
from rsembed.providers.routing import RoutedProvider, describe_for
from rsembed.testing.null import NullProvider
from tests.builders import request
from tests.product_files import write_registry, write_tile

IMAGERY = FetchRecipe("SOME/IMAGERY", 10.0)


@pytest.fixture
def tiles(tmp_path: Path) -> FetchRecipe:
    write_registry(tmp_path, [write_tile(tmp_path, 15, 5205)])
    return FetchRecipe("TESSERA/V1", 10.0, product=ProductRules(str(tmp_path)))


class Counting:
    """Makes a provider of products, and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> ProductsProvider:
        self.made += 1
        return ProductsProvider(Settings(offline=True))


def test_routed_when_asked_for_imagery_then_the_backend_answers_and_no_product_is_opened() -> None:
    backend, products = NullProvider(), Counting()
    routed = RoutedProvider(backend, products)
    routed.check(IMAGERY, ("B1",))
    assert routed.fetch(request()).frames[0].n_images == 1
    routed.close()
    assert isinstance(routed, ProviderBase)
    assert (routed.name, backend.calls, products.made) == ("null", 1, 0)


def test_routed_when_asked_for_a_product_then_its_files_answer(tiles: FetchRecipe) -> None:
    backend, products = NullProvider(), Counting()
    routed = RoutedProvider(backend, products)
    grid = Grid(32631, 304_000.0, 5_770_000.0, 10.0, 4, 4)
    bins = request().bins
    routed.check(tiles, ("T000",))
    patch = routed.fetch(FetchRequest(tiles, ("T000",), grid, bins))
    assert patch.provenance["backend"] == "products"
    with pytest.raises(ProviderError, match="none of the published"):
        routed.check(replace(tiles, collection="NULL/PRODUCT"), ("T000",))
    routed.close()
    assert (backend.calls, products.made) == (0, 1)


def test_description_when_only_products_are_used_then_the_backend_is_not_named(tiles: FetchRecipe) -> None:
    routed = RoutedProvider(NullProvider(), Counting())
    assert describe_for(routed, [tiles]) == {"backend": "products"}
    assert describe_for(routed, [tiles, IMAGERY]) == routed.describe() == {"backend": "null"}
    assert describe_for(NullProvider(), [tiles]) == {"backend": "null"}
