"""What the stac provider refuses or warns of before it asks anybody."""

from __future__ import annotations

import pytest

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe
from rsembed.providers.stac import EARTH_SEARCH, StacProvider

PLANETARY_COMPUTER = "https://planetarycomputer.microsoft.com/api/stac/v1"


@pytest.mark.parametrize("catalog", [PLANETARY_COMPUTER, EARTH_SEARCH])
@pytest.mark.parametrize("collection", ["COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT", "sentinel-1-grd"])
def test_check_when_radar_is_uncalibrated_there_then_refused_at_once_with_the_reason(
    catalog: str, collection: str
) -> None:
    provider = StacProvider(catalog, requester_pays=True)
    with pytest.raises(ProviderError, match=r"digital numbers, not the calibrated backscatter.*sentinel-1-rtc"):
        provider.check(FetchRecipe(collection, 10.0), ("VV",))
