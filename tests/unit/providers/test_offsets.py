"""Whether an offset is still in the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsembed.providers.collections import collection_info
from rsembed.providers.datasets import DatasetPool
from rsembed.providers.offsets import OffsetCheck, looks_applied
from rsembed.providers.scenes import Asset, Scene
from rsembed.providers.transport import RequestCounter
from rsembed.providers.units import conversion

S2 = collection_info("COPERNICUS/S2_SR_HARMONIZED")


def scene(folder: Path, low: int, high: int, *, offset: float | None = -0.1, applied: bool = False) -> Scene:
    values = np.random.default_rng(0).integers(low, high, (64, 64)).astype(np.uint16)
    path = folder / f"{low}.tif"
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 0, 0, -10, 640)}
    with rasterio.open(path, "w", driver="GTiff", count=1, height=64, width=64, dtype="uint16", **place) as target:
        target.write(values, 1)
    asset = Asset(str(path), scale=0.0001, offset=offset, nodata=0.0)
    return Scene("a", "sentinel-2-c1-l2a", None, (0, 0, 1, 1), {"B4": asset}, baseline=5.0, offset_applied=applied)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (np.full(1000, 300), True), (np.full(1000, 1200), False), (np.zeros(1000), False), (np.full(50, 300), False),
        (np.repeat([300, 2000], [40, 960]), False), (np.repeat([300, 2000], [100, 900]), True),
        (np.repeat([0, 1500], [900, 100]), False),
    ],
)  # fmt: skip
def test_looks_applied_when_dark_pixels_are_many_then_and_only_then(numbers: np.ndarray, *, expected: bool) -> None:
    assert looks_applied(numbers, 0.0) is expected


@pytest.mark.parametrize(
    ("low", "high", "offset", "applied", "note"),
    [
        (1100, 3000, -0.1, False, "DN x 1 + -1000 (offset of the asset)"),
        (100, 2000, -0.1, False, "DN x 1 + 0 (offset already in the numbers, as the pixels show)"),
        (100, 2000, None, False, "DN x 1 + 0 (offset already in the numbers, as the pixels show)"),
        (100, 2000, -0.1, True, "DN x 1 + 0 (offset already in the numbers)"),
        (100, 2000, 0.0, False, "DN x 1 + 0 (offset of the asset)"),
    ],
)
def test_checked_when_an_offset_is_declared_then_the_pixels_have_the_last_word(
    tmp_path: Path, low: int, high: int, offset: float | None, *, applied: bool, note: str
) -> None:
    made = scene(tmp_path, low, high, offset=offset, applied=applied)
    found = OffsetCheck(DatasetPool()).checked(made, S2, RequestCounter())
    assert conversion(S2, found, "B4", found.assets["B4"], file_unit=None).note == note


def test_checked_when_asked_again_then_the_file_is_not_looked_at(tmp_path: Path) -> None:
    made, check = scene(tmp_path, 100, 2000), OffsetCheck(DatasetPool())
    assert check.checked(made, S2, RequestCounter()).offset_seen
    Path(made.assets["B4"].href).unlink()
    assert check.checked(made, S2, RequestCounter()).offset_seen
