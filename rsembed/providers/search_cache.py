"""Answers of STAC searches on disk: one GeoParquet file each, written whole or not at all.

A search of a tile and a quarter is the same for every run of a machine, and its pages of JSON are
far larger than what is needed of them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from rsembed.core.specs import Window
from rsembed.providers.scenes import Asset, Scene

logger = logging.getLogger(__name__)

FORMAT = "1"
"""Raised whenever scenes are understood otherwise; files of another format are asked for anew."""
SETTLED_DAYS = 60
"""Scenes come late, and are made again, in the weeks after they were taken."""
RECENT_HOURS = 3.0
OLD_DAYS = 30.0

_ASSET = pa.struct(
    [
        ("href", pa.string()), ("index", pa.int32()), ("scale", pa.float64()), ("offset", pa.float64()),
        ("unit", pa.string()), ("nodata", pa.float64()), ("checksum", pa.string()),
    ]
)  # fmt: skip
_TEXTS = ("platform", "orbit", "orbit_pass", "tile", "instrument_mode", "constellation", "tier")
_SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("collection", pa.string()), ("datetime", pa.timestamp("us", "UTC")),
        ("bbox", pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])),
        ("geometry", pa.binary()), ("assets", pa.map_(pa.string(), _ASSET)),
        ("cloud_pct", pa.float64()), ("baseline", pa.float64()), ("offset_applied", pa.bool_()),
        *((name, pa.string()) for name in _TEXTS),
    ]
)  # fmt: skip
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
}


class SearchCache:
    """Scenes found by earlier searches of the API ``url``, in ``folder``.

    Answers about a window that ended less than SETTLED_DAYS ago are good for RECENT_HOURS, others for
    OLD_DAYS. What cannot be read or written is as if it were not there. ``now``: the clock.
    """

    def __init__(self, folder: Path, url: str, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._now = now
        self._swept = False

    def get(self, collections: Sequence[str], cell: tuple[float, float], window: Window) -> list[Scene] | None:
        """The scenes of an earlier answer that is still good; None where there is none."""
        path = self._path(collections, cell, window)
        try:
            age_s = self._now() - path.stat().st_mtime
            if age_s > self._good_for_s(window):
                return None
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid):
            return None
        if (table.schema.metadata or {}).get(b"rsembed:format") != FORMAT.encode():
            return None
        return [_scene(row) for row in table.to_pylist()]

    def put(
        self, collections: Sequence[str], cell: tuple[float, float], window: Window, scenes: Sequence[Scene]
    ) -> None:
        """Keep an answer."""
        path = self._path(collections, cell, window)
        metadata = {"rsembed:format": FORMAT, "geo": json.dumps(_GEO)}
        table = pa.Table.from_pylist([_row(s) for s in scenes], schema=_SCHEMA.with_metadata(metadata))
        draft: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".search-")
            os.close(handle)
            pq.write_table(table, draft, compression="zstd")
            os.replace(draft, path)
        except OSError as exc:
            logger.warning("search_not_cached", extra={"path": str(path), "error": str(exc)})
            if draft is not None:
                with contextlib.suppress(OSError):
                    Path(draft).unlink()

    def _sweep(self) -> None:
        """Delete, once a process, what is too old to be used again."""
        if self._swept:
            return
        self._swept = True
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                if self._now() - path.stat().st_mtime > OLD_DAYS * 86_400:
                    path.unlink()

    def _path(self, collections: Sequence[str], cell: tuple[float, float], window: Window) -> Path:
        names = hashlib.sha256(",".join(collections).encode()).hexdigest()[:8]
        west, south = cell
        return self._folder / f"{names}_{west:+g}_{south:+g}_{window.start}_{window.end}.parquet"

    def _good_for_s(self, window: Window) -> float:
        today = dt.datetime.fromtimestamp(self._now(), dt.UTC).date()
        settled = (today - window.end).days > SETTLED_DAYS
        return OLD_DAYS * 86_400 if settled else RECENT_HOURS * 3600


def _row(scene: Scene) -> dict[str, object]:
    west, south, east, north = scene.bbox
    row: dict[str, object] = {name: getattr(scene, name) for name in _TEXTS}
    row |= {
        "id": scene.id, "collection": scene.collection, "datetime": scene.time,
        "bbox": {"xmin": west, "ymin": south, "xmax": east, "ymax": north},
        "geometry": None if scene.outline is None else shapely.to_wkb(scene.outline),
        "assets": [(name, _fields(asset)) for name, asset in scene.assets.items()],
        "cloud_pct": scene.cloud_pct, "baseline": scene.baseline, "offset_applied": scene.offset_applied,
    }  # fmt: skip
    return row


def _fields(asset: Asset) -> dict[str, object]:
    return {field.name: getattr(asset, field.name) for field in _ASSET}


def _scene(row: dict[str, Any]) -> Scene:
    box, geometry, assets = row.pop("bbox"), row.pop("geometry"), row.pop("assets")
    time: dt.datetime | None = row.pop("datetime")
    return Scene(
        time=None if time is None else time.astimezone(dt.UTC),
        bbox=(box["xmin"], box["ymin"], box["xmax"], box["ymax"]),
        outline=None if geometry is None else shapely.from_wkb(geometry),
        assets={name: Asset(**fields) for name, fields in assets},
        **row,
    )
