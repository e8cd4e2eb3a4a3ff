"""The official Earth Engine client on a local server: one session at a time, since the client's state is global."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ee
import numpy as np
import pytest
from numpy.typing import NDArray

from rsembed.testing.earth_engine import LocalEarthEngine


@contextmanager
def client_of(server: LocalEarthEngine, **options: Any) -> Iterator[None]:
    """The client initialised against ``server``, its own retries off."""
    with pytest.MonkeyPatch.context() as patch:
        # The client's only way out of this machine: a list of deprecated data sets.
        patch.setattr("ee.deprecation._FetchDataCatalogStac", dict)
        try:
            ee.Initialize(**{"credentials": None, "project": "test", "url": server.url, **options})
            ee.data.setMaxRetries(0)
            yield
        finally:
            ee.Reset()


def grid_of(
    *, pixel: float = 10, size: tuple[int, int] = (8, 8), origin: tuple[float, float], crs: str
) -> dict[str, Any]:
    """A computePixels grid of ``size`` (height, width); ``origin`` is its upper left corner."""
    affine = {"scaleX": pixel, "translateX": origin[0], "scaleY": -pixel, "translateY": origin[1]}
    return {
        "dimensions": {"width": size[1], "height": size[0]},
        "crsCode": crs,
        "affineTransform": {"shearX": 0, "shearY": 0, **affine},
    }


def pixels_of(image: Any, grid: dict[str, Any], **more: Any) -> NDArray[np.void]:
    """The structured array that computePixels answers."""
    answer = ee.data.computePixels({"expression": image, "fileFormat": "NUMPY_NDARRAY", "grid": grid, **more})
    return np.asarray(answer)


def only(image: Any, grid: dict[str, Any]) -> NDArray[np.generic]:
    """The pixels of an image's only band."""
    found = pixels_of(image, grid)
    assert found.dtype.names is not None
    assert len(found.dtype.names) == 1
    return np.asarray(found[found.dtype.names[0]])
