"""Which provider a request gets."""

from __future__ import annotations

from typing import Any

import pytest

from rsembed.core.errors import ProviderError, SpecError
from rsembed.core.fetching import FetchRecipe
from rsembed.core.settings import Settings
from rsembed.providers.factory import backends, make_provider, register_backend, resolve_backend
from rsembed.testing.null import NullProvider

PLAIN = Settings()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [(PLAIN, "stac"), (Settings(ee_project="p"), "gee"), (Settings(backend="stac", ee_project="p"), "stac")],
)
def test_resolve_backend_when_auto_then_gee_only_with_a_project(settings: Settings, expected: str) -> None:
    assert resolve_backend(settings=settings) == expected


def test_resolve_backend_when_options_tell_then_they_decide() -> None:
    assert resolve_backend("auto", catalog="x", settings=Settings(ee_project="p")) == "stac"
    assert resolve_backend("auto", source="x.tif", settings=PLAIN) == "raster"


@pytest.mark.parametrize("name", ["files", "nonsense"])
def test_resolve_backend_when_unknown_then_names_those_there_are(name: str) -> None:
    with pytest.raises(SpecError, match=r"auto, gee, stac, raster,( null,)? local"):
        resolve_backend(name, settings=PLAIN)


def test_resolve_backend_when_the_environment_names_one_then_auto_takes_it_unless_a_catalogue_or_source_is_given() -> (
    None
):
    settings = Settings(backend="GEE")
    assert resolve_backend("auto", settings=settings) == "gee"
    assert resolve_backend("auto", catalog="x", settings=settings) == "stac"
    assert resolve_backend("auto", source="x.tif", settings=settings) == "raster"


def test_make_provider_when_local_then_it_has_no_imagery() -> None:
    with pytest.raises(ProviderError, match="the backend local reads published embeddings"):
        make_provider("local", settings=PLAIN).check(FetchRecipe("COPERNICUS/S2_SR_HARMONIZED", 10.0), ("B4",))


def test_make_provider_when_raster_without_source_then_says_so() -> None:
    with pytest.raises(SpecError, match="needs source="):
        make_provider("raster", settings=PLAIN)


def test_make_provider_when_declarations_do_not_fit_then_refused() -> None:
    with pytest.raises(SpecError, match="unit declare what a raster holds"):
        make_provider("stac", unit="dB", settings=PLAIN)


@pytest.mark.parametrize("collection", ["COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD_FLOAT", "sentinel-2-l1c"])
def test_make_provider_when_earth_search_would_charge_then_the_check_says_so_without_asking(collection: str) -> None:
    with pytest.raises(ProviderError, match=r"where the reader pays.*AWS_REQUEST_PAYER=requester"):
        make_provider("stac", settings=PLAIN).check(FetchRecipe(collection, 10.0), ("B4",))


@pytest.fixture
def registered() -> list[dict[str, Any]]:
    """A backend ``own`` from outside, and the options it was made with."""
    made: list[dict[str, Any]] = []

    def own(*, depth: int = 0) -> NullProvider:
        made.append({"depth": depth})
        return NullProvider()

    register_backend("own", own)
    return made


def test_register_backend_when_a_provider_is_asked_for_then_it_is_made_with_its_options(
    registered: list[dict[str, Any]],
) -> None:
    assert "own" in backends()
    assert isinstance(make_provider("own", depth=3, settings=PLAIN), NullProvider)
    assert registered == [{"depth": 3}]


def test_register_backend_when_it_does_not_take_an_option_then_refused(registered: list[dict[str, Any]]) -> None:
    with pytest.raises(SpecError, match="own does not take"):
        make_provider("own", width=1, settings=PLAIN)


@pytest.mark.parametrize("name", ["auto", "stac", "Own"])
def test_register_backend_when_the_name_is_taken_or_odd_then_refused(name: str) -> None:
    with pytest.raises(SpecError, match="cannot be registered"):
        register_backend(name, NullProvider)
