"""The user's own imagery: GeoTIFFs, a folder of them, or arrays. What it is, is declared and never guessed."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.providers.assembly import assemble
from rsembed.providers.collections import CollectionInfo, collection_info, known_collections, of_constellation
from rsembed.providers.datasets import DatasetPool, provider_error
from rsembed.providers.scenes import Asset, Scene, SceneIndex, grid_bounds
from rsembed.providers.selection import whole_window
from rsembed.providers.transport import RequestCounter
from rsembed.providers.units import power_unit

When = str | dt.date | dt.datetime | None


@dataclass(frozen=True)
class RasterArray:
    """An array with its place: ``values`` (C, H, W) or (T, C, H, W), north-up, in the stored numbers.

    ``crs``: ``EPSG:n`` or WKT; ``transform``: affine (a, b, c, d, e, f). ``nodata``: the number that
    means nothing is there (NaN always does).
    """

    values: NDArray[np.generic]
    crs: str
    transform: tuple[float, float, float, float, float, float]
    nodata: float | None = None


class RasterProvider:
    """A :class:`~rsembed.providers.base.ProviderBase` over the user's own rasters.

    ``source``: a GeoTIFF, a folder of them, several, or a :class:`RasterArray`. ``collection`` says what
    it is. ``scale`` and ``offset`` (Sentinel-2): reflectance = stored * scale + offset, so 0.0001 for
    digital numbers. ``unit`` (Sentinel-1): ``dB`` or ``linear``, unless the files' own unit tag says.
    ``bands`` names the bands in order; left out, the files' band descriptions do. ``datetime``: one for
    all, or one per file (or per T); left out, the files' ``datetime`` or ``TIFFTAG_DATETIME`` tag; a
    raster without a date serves any window. Files of one folder, date and corner that hold different
    bands are one scene. Raises ProviderError that says what to declare.
    """

    name = "raster"

    def __init__(
        self,
        source: str | Path | Sequence[str | Path] | RasterArray,
        *,
        collection: str,
        bands: Sequence[str] | None = None,
        datetime: When | Sequence[When] = None,
        scale: float | None = None,
        offset: float = 0.0,
        unit: str | None = None,
    ) -> None:
        self._info = _declared_collection(collection)
        self._reading = _declared_reading(self._info, scale, offset, unit)
        self._memory: list[MemoryFile] = []
        self._pool = DatasetPool()
        if isinstance(source, RasterArray):
            paths, times = self._in_memory(source, bands, datetime)
            self._content = [hashlib.sha256(np.ascontiguousarray(source.values).tobytes()).hexdigest(), source.crs]
            root = Path()
        else:
            files, root = _files(source)
            paths, times = [str(f) for f in files], _per_file(datetime, len(files))
            self._content = [f"{f.relative_to(root).as_posix()}:{f.stat().st_size}" for f in files]
        scenes: dict[tuple[object, ...], Scene] = {}
        for path, time in zip(paths, times, strict=True):
            _add_file(scenes, path, time, (self._info, self._reading, bands, str(root)))
        self._index = SceneIndex(scenes.values())

    def describe(self) -> Mapping[str, Json]:
        """What the rasters hold (a checksum over names, sizes and dates) and what was declared of them."""
        parts = self._content + [f"{s.id}:{s.time}:{sorted(s.assets)}" for s in self._index.scenes]
        digest = hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
        return {
            "backend": self.name,
            "source": f"sha256:{digest}",
            "collection": self._info.name,
            "scale": self._reading.scale,
            "offset": self._reading.offset,
            "unit": self._reading.unit,
        }

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError when the rasters are of another collection or lack a band."""
        if collection_info(recipe.collection).stac_ids != self._info.stac_ids:
            raise ProviderError(
                f"{recipe.collection} is wanted, but the rasters are declared as {self._info.name}; "
                f"declare collection={recipe.collection!r} if that is what they hold"
            )
        have = sorted({band for s in self._index.scenes for band in s.assets})
        lacking = [band for band in bands if self._info.canonical(band) not in have]
        if lacking:
            raise ProviderError(f"the rasters have no band {', '.join(lacking)}; they have {', '.join(have)}")

    def fetch(self, request: FetchRequest) -> Patch:
        """The imagery of one row; see :class:`~rsembed.providers.base.ProviderBase`."""
        self.check(request.recipe, request.bands)
        found = self._index.search(grid_bounds(request.grid), whole_window(request.bins))
        # The unit that comes out is the request's: S1_GRD and S1_GRD_FLOAT are the same files.
        wanted = collection_info(request.recipe.collection)
        info = replace(self._info, name=wanted.name, unit=wanted.unit) if wanted.bands else self._info
        return assemble(request, found, info, pool=self._pool, counter=RequestCounter(), backend=self.name)

    def close(self) -> None:
        """Close every open file and release arrays."""
        self._pool.close()
        for memory in self._memory:
            memory.close()
        self._memory.clear()

    def _in_memory(
        self, source: RasterArray, bands: Sequence[str] | None, datetime: When | Sequence[When]
    ) -> tuple[list[str], list[When]]:
        values = source.values[None] if source.values.ndim == 3 else source.values
        if values.ndim != 4:
            raise ProviderError(f"an array of shape (C, H, W) or (T, C, H, W) was expected, got {source.values.shape}")
        if bands is None or len(bands) != values.shape[1]:
            raise ProviderError(f"declare bands=(...): the names of the array's {values.shape[1]} bands, in order")
        profile = {
            "driver": "GTiff",
            "count": values.shape[1],
            "height": values.shape[2],
            "width": values.shape[3],
            "dtype": values.dtype,
            "crs": source.crs,
            "transform": Affine(*source.transform),
            "nodata": source.nodata,
        }
        paths = []
        for frame in values:
            memory = MemoryFile()
            self._memory.append(memory)
            try:
                with memory.open(**profile) as target:
                    target.write(frame)
            except (RasterioError, CRSError, TypeError) as exc:
                raise ProviderError(
                    f"the array ({values.dtype}, crs {source.crs!r}) cannot be taken as a raster: {exc}"
                ) from exc
            paths.append(memory.name)
        return paths, _per_file(datetime, len(paths))


def _declared_collection(collection: str) -> CollectionInfo:
    if not collection:
        raise ProviderError(
            "declare what the rasters hold: collection='COPERNICUS/S2_SR_HARMONIZED' (or another of "
            f"{', '.join(known_collections())}, or a name of your own for raw values)"
        )
    info = collection_info(collection)
    # 'sentinel-2-mine' is as good a declaration as the catalogue's own ids.
    return of_constellation(collection, collection) if info.family == "unknown" else info


def _declared_reading(info: CollectionInfo, scale: float | None, offset: float, unit: str | None) -> Asset:
    if info.family == "sentinel-2" and scale is None:
        raise ProviderError(
            f"declare scale= (and offset=) of the {info.name} rasters: reflectance = stored * scale + offset. "
            "scale=0.0001 for digital numbers (offset=-0.1 if they carry the +1000 of baseline 04.00), scale=1 for "
            "reflectance 0..1"
        )
    if info.family == "sentinel-1" and unit is not None and power_unit(unit) is None:
        raise ProviderError(f"unit of {info.name} must be 'dB' or 'linear', got {unit!r}")
    return Asset("", scale=scale, offset=offset if scale is not None else None, unit=unit)


def _files(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], Path]:
    given = [source] if isinstance(source, (str, Path)) else list(source)
    files: list[Path] = []
    for entry in (Path(g).expanduser().resolve() for g in given):
        if entry.is_dir():
            files += sorted(f for f in entry.rglob("*") if f.suffix.lower() in (".tif", ".tiff"))
        elif entry.exists():
            files.append(entry)
        else:
            raise ProviderError(f"there is no raster {entry}; --source takes GeoTIFFs or a folder of them")
    if not files:
        raise ProviderError(f"no GeoTIFF (*.tif, *.tiff) in {', '.join(str(g) for g in given)}")
    parents = [f.parent for f in files]
    root = next(p for p in (parents[0], *parents[0].parents) if all(f.is_relative_to(p) for f in files))
    return files, root


def _per_file(datetime: When | Sequence[When], n: int) -> list[When]:
    if datetime is None or isinstance(datetime, (str, dt.date)):
        return [datetime] * n
    times = list(datetime)
    if len(times) != n:
        raise ProviderError(f"declare one datetime for all {n} rasters or one each; got {len(times)}")
    return times


_Declared = tuple[CollectionInfo, Asset, Sequence[str] | None, str]


def _add_file(scenes: dict[tuple[object, ...], Scene], path: str, when: When, declared: _Declared) -> None:
    info, reading, bands, root = declared
    try:
        with rasterio.open(path) as raster:
            names = _band_names(raster, path, bands)
            time = _time(when if when is not None else _tagged_time(raster), path)
            if info.family == "sentinel-1" and reading.unit is None and not any(map(power_unit, raster.units)):
                raise ProviderError(f"declare unit='dB' or unit='linear': {path} states no unit of its own")
            if raster.crs is None:
                raise ProviderError(f"{path} has no coordinate reference system; it cannot be placed on a grid")
            bbox = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
            corner = (round(raster.bounds.left, 3), round(raster.bounds.top, 3), str(raster.crs))
    except RasterioError as exc:
        raise provider_error(exc, path) from exc
    place = "" if path.startswith("/vsimem/") else str(Path(path).parent)
    assets = {info.canonical(name): replace(reading, href=path, index=i) for i, name in enumerate(names, start=1)}
    key: tuple[object, ...] = (place, time, corner)
    part = 0
    while (there := scenes.get((*key, part))) is not None and set(there.assets) & set(assets):
        part += 1
    if there is not None:
        assets = {**there.assets, **assets}
    label = f"array-{len(scenes):04d}" if not place else Path(path).relative_to(root).with_suffix("").as_posix()
    scenes[(*key, part)] = Scene(
        id=there.id if there is not None else label,
        collection=info.stac_ids[0],
        time=time,
        bbox=bbox,
        assets=assets,
        instrument_mode="IW",  # nothing tells the mode of a user's file; it is taken as wanted
        constellation=info.family,
    )


def _band_names(raster: DatasetReader, path: str, bands: Sequence[str] | None) -> tuple[str, ...]:
    described = tuple(name for name in raster.descriptions if name)
    if len(described) == raster.count and (bands is None or len(bands) != raster.count):
        return described
    if bands is None or len(bands) != raster.count:
        raise ProviderError(
            f"declare bands=(...): {path} has {raster.count} bands and describes {len(described)} of them"
        )
    return tuple(bands)


def _tagged_time(raster: DatasetReader) -> str | None:
    tags: Mapping[str, str] = raster.tags()
    if tags.get("datetime"):
        return tags["datetime"]
    stamp = tags.get("TIFFTAG_DATETIME") or ""
    return f"{stamp[:10].replace(':', '-')}T{stamp[11:]}" if len(stamp) == 19 else None


def _time(when: When, path: str) -> dt.datetime | None:
    if when is None:
        return None
    if isinstance(when, dt.datetime):
        time = when
    elif isinstance(when, dt.date):
        time = dt.datetime.combine(when, dt.time(), dt.UTC)
    else:
        try:
            time = dt.datetime.fromisoformat(when)
        except ValueError as exc:
            raise ProviderError(f"{path}: datetime must be ISO such as 2022-06-01, got {when!r}") from exc
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
