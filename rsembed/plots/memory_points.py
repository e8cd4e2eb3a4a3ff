"""Rows that are in memory, or come there as a whole: of exports that are no dataset, and of data frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding, RowStatus
from rsembed.core.errors import SpecError
from rsembed.load import ModelResult
from rsembed.pipelines.rows.places import LAT_NAMES, LON_NAMES
from rsembed.pipelines.rows.source import find_column
from rsembed.plots.point_source import BATCH_ROWS, NO_MAPS, PointBatch, mean_vectors


class ItemPoints:
    """Items of an export that is no dataset: they are in memory already, or come there."""

    def __init__(self, model: ModelResult, credit: tuple[str, ...]) -> None:
        self.title = model.name
        self.credits = credit
        self.n_rows = model.n_items
        self._model = model

    def batches(self, *, vectors: bool = True) -> Iterator[PointBatch]:
        """See :class:`PointSource`; an item that holds a map gives the mean of its cells."""
        table = self._model.table(["id", "start", "end", "status", "lon", "lat"])
        read = {name: table.column(name).to_numpy() for name in table.column_names}
        windows = np.array([_window(a, b) for a, b in zip(read["start"], read["end"], strict=True)], dtype=object)
        whole = self._model.embeddings if vectors else None
        for first in range(0, self.n_rows, BATCH_ROWS):
            part = slice(first, min(first + BATCH_ROWS, self.n_rows))
            found = np.empty((part.stop - first, 0), np.float32) if whole is None else mean_vectors(list(whole[part]))
            yield PointBatch(
                read["id"][part], np.arange(part.start, part.stop), read["lon"][part], read["lat"][part],
                read["status"][part], windows[part], found,
            )  # fmt: skip


    def map_at(self, position: int) -> Embedding:
        """See :class:`PointSource`."""
        whole = self._model.embeddings
        data = None if whole is None else whole[position]
        if data is None or not np.isfinite(data).any():
            raise SpecError(f"item {position} has no embedding: it is {self._model.data.statuses()[position]}")
        if data.ndim != 3:
            raise SpecError(NO_MAPS)
        return Embedding(data, self._model.meta[position] if self._model.meta else {})


def _window(start: object, end: object) -> str:
    days = [str(np.datetime64(day, "D")) if day is not None else "" for day in (start, end)]  # type: ignore[call-overload]  # dates
    return "" if {"NaT", ""} & set(days) else "..".join(days)


class FramePoints:
    """Rows of a data frame as :func:`rsembed.embed` gives it back."""

    credits: tuple[str, ...] = ()
    title = ""

    def __init__(self, frame: Any) -> None:
        names = [name for name in frame.columns if isinstance(name, str)]
        if "embedding" not in names:
            raise SpecError(f"the table has no column 'embedding', as embed(table, ...) adds it; it has {names}")
        self._frame = frame
        self.n_rows = len(frame)
        self._lon, self._lat = _degrees(frame, names)

    def batches(self, *, vectors: bool = True) -> Iterator[PointBatch]:
        """See :class:`PointSource`."""
        frame, total = self._frame, self.n_rows
        ids = frame["id"] if "id" in frame.columns else frame.index
        texts = np.array([str(each) for each in ids], dtype=object)
        given = list(frame["embedding"])
        statuses = self._statuses(given)
        dim = next((len(vector) for vector in given if vector is not None), 0)
        for first in range(0, total, BATCH_ROWS):
            part = slice(first, min(first + BATCH_ROWS, total))
            held = np.full((part.stop - first, dim if vectors else 0), np.nan, np.float32)
            for i, vector in enumerate(given[part] if vectors else []):
                if vector is not None:
                    held[i] = vector
            windows = np.full(len(held), "", dtype=object)
            rows = np.arange(part.start, part.stop)
            yield PointBatch(texts[part], rows, self._lon[part], self._lat[part], statuses[part], windows, held)

    def map_at(self, position: int) -> Embedding:
        """See :class:`PointSource`: a table holds vectors."""
        raise SpecError(NO_MAPS)

    def _statuses(self, vectors: Sequence[object]) -> NDArray[np.object_]:
        if "status" in self._frame.columns:
            return np.array(self._frame["status"], dtype=object)
        known = [RowStatus.NO_DATA if vector is None else RowStatus.OK for vector in vectors]
        return np.array([status.value for status in known], dtype=object)


def _degrees(frame: Any, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitudes and latitudes of a frame's rows."""
    if getattr(frame, "active_geometry_name", None) is not None:
        shapes = frame.geometry if frame.crs is None else frame.geometry.to_crs(4326)
        inside = shapes.representative_point()
        return np.asarray(inside.x, np.float64), np.asarray(inside.y, np.float64)
    lon, lat = find_column(names, LON_NAMES), find_column(names, LAT_NAMES)
    if lon is None or lat is None:
        raise SpecError(f"the table has neither a geometry nor columns lon and lat; it has {', '.join(names)}")
    return np.asarray(frame[lon], np.float64), np.asarray(frame[lat], np.float64)
