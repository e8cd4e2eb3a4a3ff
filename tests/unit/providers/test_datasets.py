"""The pool of open rasters and the translation of their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError
from rsembed.providers.datasets import DatasetPool, provider_error
from rsembed.providers.lattice import PixelWindow

URL = "https://example.org/a.tif"


def raster(path: Path) -> str:
    profile = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, 0, 0, -10, 40), **profile) as target:
        target.write(np.arange(16, dtype=np.uint8).reshape(4, 4), 1)
    return str(path)


def test_borrow_when_given_back_then_opened_once(tmp_path: Path) -> None:
    pool, href = DatasetPool(), raster(tmp_path / "a.tif")
    with pool.borrow(href) as first:
        assert first.read(1, PixelWindow(1, 2, 1, 2)).tolist() == [[6, 7]]
    with pool.borrow(href) as again, pool.borrow(href) as meanwhile:
        assert again is first
        assert meanwhile is not first
    pool.close()


def test_borrow_when_over_the_cap_then_longest_unused_goes(tmp_path: Path) -> None:
    pool, hrefs = DatasetPool(max_idle=2), [raster(tmp_path / f"{n}.tif") for n in "abc"]
    lent = []
    for href in hrefs:
        with pool.borrow(href) as opened:
            lent.append(opened)
    with pool.borrow(hrefs[0]) as first, pool.borrow(hrefs[2]) as last:
        assert first is not lent[0]
        assert last is lent[2]


def test_borrow_when_file_is_missing_then_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"gone\.tif is missing"), DatasetPool().borrow(str(tmp_path / "gone.tif")):
        pass


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("HTTP response code: 429", QuotaError),
        ("HTTP response code: 401", AuthError),
        ("HTTP response code: 503", TransientProviderError),
        ("CURL error: Connection timed out after 10000 milliseconds", TransientProviderError),
        ("HTTP response code: 404", ProviderError),
        ("HTTP response code: 403", ProviderError),
    ],
)
def test_provider_error_when_server_answers_then_class_by_status(message: str, kind: type[ProviderError]) -> None:
    error = provider_error(RasterioIOError(message), URL)
    assert type(error) is kind
    assert URL in str(error)


def test_provider_error_when_local_file_is_damaged_then_permanent() -> None:
    assert not provider_error(RasterioIOError("Read failed. See previous exception for details."), "/a.tif").transient
