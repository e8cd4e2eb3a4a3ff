from __future__ import annotations

from collections.abc import Sequence

import pytest

from rsembed.core.errors import AuthError, ProviderError
from rsembed.core.fetching import FetchRecipe
from rsembed.core.specs import SensorSpec
from rsembed.pipelines.request import ExportModelRequest
from rsembed.testing.null import NullProvider
from tests.builders import run_plan

L1C, L2A = "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S2_SR_HARMONIZED"
NEEDS_L1C = [
    ExportModelRequest("dofa"),
    ExportModelRequest("wildsat", model_config={"variant": "swint"}),
    ExportModelRequest("satmaepp", modality="s2_10b"),
]


class Shelf(NullProvider):
    """A source that has some collections only."""

    name = "stac"

    def __init__(self, *collections: str, error: type[ProviderError] = ProviderError) -> None:
        super().__init__()
        self._collections = collections
        self._error = error

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        if recipe.collection not in self._collections:
            raise self._error(f"this catalogue has no {recipe.collection}")


@pytest.mark.parametrize("request_", NEEDS_L1C, ids=lambda request: request.name)
def test_plan_when_level_1c_is_wanted_and_not_there_then_error_names_the_ways_out(request_: ExportModelRequest) -> None:
    with pytest.raises(ProviderError) as caught:
        run_plan(request_, provider=Shelf(L2A))
    words = str(caught.value)
    assert words.startswith(f"this catalogue has no {L1C}. It is {request_.name} that wants {L1C}. Ways out: ")
    assert f"recipe 'rs-embed', which takes {L2A}" in words
    assert "backend 'gee'" in words
    assert "a sensor (--collection and --bands)" in words
    assert run_plan(request_, provider=Shelf(L2A), recipe="rs-embed").models[0].recipe.collection == L2A


def test_plan_when_no_recipe_would_help_then_none_is_named() -> None:
    with pytest.raises(ProviderError) as caught:
        run_plan("dofa", provider=Shelf())
    assert "recipe '" not in str(caught.value)


def test_plan_when_a_sensor_names_what_is_not_there_then_another_recipe_is_no_way_out() -> None:
    asked = ExportModelRequest("mosaiks", sensor=SensorSpec(L1C, ("B4", "B3", "B2")))
    with pytest.raises(ProviderError) as caught:
        run_plan(asked, provider=Shelf(L2A))
    assert "recipe '" not in str(caught.value)
    assert "Ways out: backend 'gee'" in str(caught.value)


def test_plan_when_several_models_share_the_fetch_then_all_are_named() -> None:
    with pytest.raises(ProviderError, match="It is dofa, wildsat that want COPERNICUS/S2_HARMONIZED"):
        run_plan("dofa", "wildsat", provider=Shelf(L2A))


def test_plan_when_credentials_are_wanted_then_no_other_way_is_told() -> None:
    with pytest.raises(AuthError) as caught:
        run_plan("dofa", provider=Shelf(L2A, error=AuthError))
    assert "Ways out" not in str(caught.value)
