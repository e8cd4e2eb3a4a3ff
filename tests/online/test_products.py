"""The published products where their authors keep them; by hand: some 200 MB are downloaded for the first one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsembed.api import get_embedding
from rsembed.core.errors import ProviderError
from rsembed.core.specs import OutputSpec, PointBuffer, TemporalSpec


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSEMBED_CACHE_DIR", str(tmp_path))


def test_tiles_when_downloaded_then_a_map_without_holes_on_land() -> None:
    place = PointBuffer(0.12, 52.2, 500)
    found = get_embedding("tessera", spatial=place, temporal=TemporalSpec.year(2024), output=OutputSpec.grid())
    assert found.data.shape == (128, 100, 100)
    assert np.isfinite(found.data).all()
    assert found.meta["status"] == "ok"


def test_tiles_when_the_place_is_in_mid_ocean_then_no_data() -> None:
    with pytest.raises(ProviderError, match="No images found"):
        get_embedding("tessera", spatial=PointBuffer(-35.0, 40.0, 500), temporal=TemporalSpec.year(2024))


def test_cells_when_downloaded_then_land_has_768_numbers() -> None:
    found = get_embedding("copernicus", spatial=PointBuffer(10.0, 50.0), temporal=TemporalSpec.year(2021))
    assert found.data.shape == (768,)
    assert np.abs(found.data).max() > 0
