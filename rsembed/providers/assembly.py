"""From a request and the scenes found for it to a patch; shared by every provider that reads files."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.specs import Window
from rsembed.providers.collections import SCENE_CLASSES, CollectionInfo
from rsembed.providers.compositing import Layer, frame_of, lay_under, median, merge_datatakes, mosaic_order
from rsembed.providers.datasets import DatasetPool, is_remote
from rsembed.providers.lattice import Lattice
from rsembed.providers.loaders import Later
from rsembed.providers.masks import scl_clear
from rsembed.providers.offsets import OffsetCheck
from rsembed.providers.scenes import Asset, Scene, within
from rsembed.providers.selection import cloud_steps, select_scenes, within_clouds
from rsembed.providers.transport import RequestCounter
from rsembed.providers.units import Conversion, conversion
from rsembed.providers.warp import method_for, read_average, read_nearest

Mask = NDArray[np.bool_]
CLASSES = Conversion(note="classes")
AHEAD = 24
"""Bands of scenes that are on their way while one scene is taken in, at least; remote files only."""


@dataclass(frozen=True)
class BandPixels:
    """One band on the grid, (H, W); ``note`` says what its stored numbers went through."""

    values: NDArray[np.float64]
    valid: Mask
    note: str


Pending = tuple[Scene, list[Later[BandPixels | None]]]


@dataclass
class SceneReader:
    """Reads scenes for one request and remembers what was done (for the provenance)."""

    request: FetchRequest
    info: CollectionInfo
    pool: DatasetPool
    counter: RequestCounter
    offsets: OffsetCheck | None = None
    units: Counter[str] = field(default_factory=Counter)
    masks: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.target = Lattice.of_grid(self.request.grid)
        self.bands = tuple(self.info.canonical(band) for band in self.request.bands)

    def layers(self, scenes: Iterable[Scene]) -> Iterator[Layer]:
        """``scenes`` on the grid, in their order: reprojected, masked, resampled; those without a valid pixel left out.

        Several scenes are asked for ahead where that hides the waiting for a network.
        """
        waiting: deque[Pending] = deque()
        rest = iter(scenes)
        ahead = 1
        try:
            while True:
                waiting.extend(self._begin(scene) for scene in islice(rest, ahead + 1 - len(waiting)))
                if not waiting:
                    return
                scene, bands = waiting[0]
                remote = any(is_remote(asset.href) for asset in scene.assets.values())
                ahead = max(1, AHEAD // len(self.bands)) if remote and self.request.recipe.composite == "median" else 0
                layer = self._taken_in(scene, [band.result() for band in bands])
                waiting.popleft()
                if layer is not None:
                    yield layer
        finally:
            # After a fault, or once a mosaic is full, nobody waits for the rest.
            for _, bands in waiting:
                for band in bands:
                    band.cancel()

    def _begin(self, scene: Scene) -> Pending:
        clear = self._clear_by(scene)
        self.masks.add("none" if clear is None else "scl")
        reads = [(scene.assets[band].href, partial(self._band, scene, band, clear)) for band in self.bands]
        return scene, [self.pool.submit(href, read) for href, read in reads]

    def _taken_in(self, scene: Scene, bands: Sequence[BandPixels | None]) -> Layer | None:
        grid = self.request.grid
        values = np.zeros((len(bands), grid.height, grid.width), np.float32)
        valid = np.zeros(values.shape, np.bool_)
        for i, found in enumerate(bands):
            if found is not None:
                values[i], valid[i] = found.values, found.valid
        if not valid.any():
            return None
        self.units.update({found.note for found in bands if found is not None})
        return Layer(values, valid, (scene,))

    def _band(self, scene: Scene, band: str, clear: Callable[[Lattice], Mask | None] | None) -> BandPixels | None:
        asset = scene.assets[band]
        known = self.info.band(band)
        categorical = known is not None and known.categorical
        if self.offsets is not None and not categorical:
            scene = self.offsets.checked(scene, self.info, self.counter)
        with self.pool.borrow(asset.href, self.counter, checksum=asset.checksum) as raster:
            stored = _completed(asset, raster.nodata)
            use = conversion(self.info, scene, band, stored, file_unit=raster.units[asset.index - 1])
            resampling = "nearest" if categorical else self.request.recipe.resampling
            method = method_for(raster.lattice, self.target, resampling)
            self.methods.add(method)
            if method == "average":
                found = read_average(raster, asset.index, self.target, use, clear or _everything)
            else:
                found = read_nearest(raster, asset.index, self.target, use)
        if found is None:
            return None
        values, valid = found
        if method != "average" and clear is not None:
            mask = clear(self.target)
            valid = valid if mask is None else valid & mask
            values = np.where(valid, values, 0.0)
        return BandPixels(values, valid, use.note)

    def _clear_by(self, scene: Scene) -> Callable[[Lattice], Mask | None] | None:
        """The scene's clear pixels on any lattice, by its classification; None where there is none."""
        asset = scene.assets.get(SCENE_CLASSES)
        if asset is None or self.request.recipe.clouds.mask != "scl" or self.info.family != "sentinel-2":
            return None
        kept: dict[Lattice, Mask] = {}

        def clear(lattice: Lattice) -> Mask:
            if lattice not in kept:
                with self.pool.borrow(asset.href, self.counter, checksum=asset.checksum) as raster:
                    found = read_nearest(raster, asset.index, lattice, CLASSES)
                # Where the classification says nothing, nothing is known to be clear.
                classes = np.zeros((lattice.height, lattice.width)) if found is None else found[0]
                kept[lattice] = scl_clear(classes)
            return kept[lattice]

        return clear


def _everything(lattice: Lattice) -> None:
    del lattice


def _completed(asset: Asset, nodata: Sequence[float | None]) -> Asset:
    if asset.nodata is not None or nodata[asset.index - 1] is None:
        return asset
    return replace(asset, nodata=nodata[asset.index - 1])


def assemble(
    request: FetchRequest,
    found: Sequence[Scene],
    info: CollectionInfo,
    *,
    pool: DatasetPool,
    counter: RequestCounter,
    backend: str,
    offsets: OffsetCheck | None = None,
) -> Patch:
    """The patch of ``request`` out of the scenes ``found`` near it (any order; some may not fit).

    ``offsets`` looks whether declared offsets can be true; left out, they are taken as declared.
    Raises ProviderError when no scene has the bands, when a unit is not stated, or when a file
    cannot be read.
    """
    chosen = select_scenes(found, request, info)
    reader = SceneReader(request, info, pool, counter, offsets)
    steps = cloud_steps(request.recipe.clouds, info)
    step: float | None = None
    frames: list[tuple[Frame, Layer | None]] = [(Frame(b), None) for b in request.bins]
    tried: float | None = None
    for step in steps:
        # What a stricter step let through has given nothing, so only the rest is read now.
        scenes = within_clouds(chosen.scenes, step, above_pct=tried)
        frames = [_frame(reader, within(scenes, window), window) for window in request.bins]
        if any(layer is not None for _, layer in frames):
            break
        tried = step
    shape = (len(request.bins), len(request.bands), request.grid.height, request.grid.width)
    values, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    for t, (_, layer) in enumerate(frames):
        if layer is not None:
            values[t], valid[t] = layer.values_chw, layer.valid_chw
    provenance: dict[str, Json] = {
        "backend": backend,
        "collection": info.name,
        "catalog_collections": sorted({s.collection for s in chosen.scenes}),
        "cloud_step": "none" if step is None else f"{step:g}",
        "mask": "+".join(sorted(reader.masks)) or "none",
        "resampling": "+".join(sorted(reader.methods)) or "none",
        "units": dict(sorted(reader.units.items())),
        "requests": counter.count,
        "bytes": counter.received,
        **chosen.notes,
    }
    return Patch(values, valid, request.bands, request.grid, tuple(frame for frame, _ in frames), provenance)


def _frame(reader: SceneReader, scenes: Sequence[Scene], window: Window) -> tuple[Frame, Layer | None]:
    recipe = reader.request.recipe
    if recipe.composite == "mosaic":
        composite = lay_under(reader.layers(sorted(scenes, key=mosaic_order)))
    else:
        composite = median(merge_datatakes(list(reader.layers(scenes))))
    if composite is None:
        return Frame(window), None
    return frame_of(composite.scenes, window, recipe.frame_date), composite
