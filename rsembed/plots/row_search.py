"""Find one row among many: by its place, its id, or its number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.plots.point_source import PointBatch, PointSource, chosen_batches


def find_row(source: PointSource, to: tuple[float, float] | str | int) -> PointBatch:
    """The one row that ``to`` names, with its vector; see :func:`find_position`.

    Raises SpecError for a row that is not there, or has no embedding.
    """
    found = next(chosen_batches(source, np.array([find_position(source, to)])))
    if not found.vectors.shape[1] or not np.isfinite(found.vectors).all():
        raise SpecError(f"row {found.rows[0]} (id {found.ids[0]}) has no embedding: it is {found.statuses[0]}")
    return found


def find_position(source: PointSource, to: tuple[float, float] | str | int) -> int:
    """Number, in the order of reading, of a row: the nearest to ``(lon, lat)`` with an embedding, or of an id.

    A number, and text that is no id, stands for the row's number in the input. Raises SpecError where there is none.
    """
    return _named(source, to) if isinstance(to, (str, int)) else _nearest(source, *as_place(to))


def _nearest(source: PointSource, lon: float, lat: float) -> int:
    first, nearest, least = 0, -1, np.inf
    for batch in source.batches():
        there = np.flatnonzero(np.isfinite(batch.vectors).all(axis=1))
        if batch.vectors.shape[1] and len(there):
            away = _angle(batch.lon[there], batch.lat[there], lon, lat)
            if away.min() < least:
                least, nearest = float(away.min()), first + int(there[away.argmin()])
        first += len(batch)
    if nearest < 0:
        raise SpecError("no row has an embedding, so there is nothing to compare")
    return nearest


def _named(source: PointSource, name: str | int) -> int:
    """The row of an id; else, and for a number, the first row of that number in the input."""
    number = int(name) if isinstance(name, int) or name.isdecimal() else -1
    first, numbered = 0, -1
    examples: list[str] = []
    for batch in source.batches(vectors=False):
        examples = examples or [str(each) for each in batch.ids[:3]]
        same = np.flatnonzero(batch.ids == name)
        if len(same):
            return first + int(same[0])
        of_number = np.flatnonzero(batch.rows == number)
        if numbered < 0 and len(of_number):
            numbered = first + int(of_number[0])
        first += len(batch)
    if numbered >= 0:
        return numbered
    what = f"number {name}" if isinstance(name, int) else f"the id {name!r}"
    raise SpecError(f"none of the {source.n_rows} rows has {what}; ids are such as {', '.join(examples)}")


def _angle(lon: NDArray[Any], lat: NDArray[Any], to_lon: float, to_lat: float) -> NDArray[np.float64]:
    """What grows with the distance on the sphere: the haversine."""
    a, b, c, d = (np.radians(each) for each in (lat, to_lat, lon, to_lon))
    found: NDArray[np.float64] = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin((c - d) / 2) ** 2
    return found


def as_place(to: object) -> tuple[float, float]:
    """``to`` as longitude and latitude; SpecError where it is none."""
    try:
        lon, lat = (float(number) for number in to)  # type: ignore[attr-defined]  # what is no pair raises
    except (TypeError, ValueError) as exc:
        raise SpecError(f"a place is a pair (lon, lat) in degrees, got {to!r}") from exc
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise SpecError(f"a place is (lon, lat) in degrees, within 180 and 90, got {lon:g}, {lat:g}")
    return lon, lat
