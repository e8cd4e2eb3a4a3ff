"""Whether the offset that a Sentinel-2 item declares is still to be taken off, told by its pixels.

Earth Search has items whose metadata say that the offset of baseline 04.00 is in the numbers where it
was taken off already (Element84/earth-search issues 66 and 71): taking it off again darkens the
image by a tenth of full reflectance. With the offset in the numbers nothing lies far below 1000; a
scene with ground in it whose numbers do cannot carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rsembed.providers.blocks import SharedCache
from rsembed.providers.collections import CollectionInfo
from rsembed.providers.datasets import DatasetPool
from rsembed.providers.scenes import Asset, Scene
from rsembed.providers.transport import RequestCounter
from rsembed.providers.units import declared_offset

WITNESSES = ("B4", "B3", "B2", "B12", "B11", "B5")
"""Bands in which ground and water are dark, best first. The first that a scene has is looked at."""
DARK_DN = 950
"""Numbers below this are reflectances below -0.005 if the offset is in them."""
DARK_SHARE = 0.05
FEWEST_PIXELS = 100


def looks_applied(stored: NDArray[np.generic], nodata: float) -> bool:
    """Whether ``stored`` (digital numbers of a dark band, any shape) cannot carry an offset of +1000."""
    valid = stored[stored != nodata]
    return valid.size >= FEWEST_PIXELS and float((valid < DARK_DN).mean()) > DARK_SHARE


class OffsetCheck:
    """Looks once at each scene that declares an offset; one look is a block of an overview."""

    def __init__(self, pool: DatasetPool, kept: int = 20_000) -> None:
        self._pool = pool
        self._verdicts: SharedCache[bool] = SharedCache(kept)

    def checked(self, scene: Scene, info: CollectionInfo, counter: RequestCounter) -> Scene:
        """``scene``, with ``offset_seen`` set where its pixels say that its offset was taken off already."""
        witness = _witness(scene.assets)
        if info.family != "sentinel-2" or witness is None or not declared_offset(scene, witness):
            return scene
        key = (scene.collection, scene.id, witness.href)
        seen = self._verdicts.get(key, lambda: self._look(witness, counter))
        return replace(scene, offset_seen=True) if seen else scene

    def _look(self, witness: Asset, counter: RequestCounter) -> bool:
        with self._pool.borrow(witness.href, counter, checksum=witness.checksum) as raster:
            nodata = witness.nodata if witness.nodata is not None else raster.nodata[witness.index - 1]
            return looks_applied(raster.sample(witness.index), 0.0 if nodata is None else nodata)


def _witness(assets: Mapping[str, Asset]) -> Asset | None:
    return next((assets[band] for band in WITNESSES if band in assets), None)
