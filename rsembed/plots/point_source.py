"""Embeddings of many places, wherever they lie, as batches: a run's folder, its Parquet files, a data frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.core.embedding import RowStatus
from rsembed.core.errors import SpecError
from rsembed.load import ExportResult, ModelResult, load_export
from rsembed.pipelines.rows.formats_memory import is_data_frame
from rsembed.pipelines.rows.places import LAT_NAMES, LON_NAMES
from rsembed.pipelines.rows.source import find_column
from rsembed.plots.colours import sample_rows
from rsembed.plots.credits import model_credit, run_credits

BATCH_ROWS = 2048
_COLUMNS = ("id", "row", "start", "end", "status", "lon", "lat")


@dataclass(frozen=True)
class PointBatch:
    """Rows as columns of one length n.

    ``ids``, ``statuses``, ``windows`` ("" where not known): text (n,); ``rows``: numbers in the input; ``lon``,
    ``lat``: degrees; ``vectors``: float32 (n, D), NaN where there is none, and (n, 0) where none were asked for.
    """

    ids: NDArray[np.object_]
    rows: NDArray[np.int64]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    statuses: NDArray[np.object_]
    windows: NDArray[np.object_]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[Any]) -> PointBatch:
        """The rows of ``chosen`` (numbers or a mask)."""
        columns = (self.ids, self.rows, self.lon, self.lat, self.statuses, self.windows, self.vectors)
        return PointBatch(*(column[chosen] for column in columns))

    def without_vectors(self) -> PointBatch:
        """The same rows, their vectors let go."""
        return replace(self, vectors=np.empty((len(self), 0), np.float32))


class PointSource(Protocol):
    """Embeddings of ``n_rows`` rows; ``title``: what they are; ``credits``: what has to be said of them."""

    @property
    def title(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def credits(self) -> tuple[str, ...]: ...

    def batches(self, *, vectors: bool = True) -> Iterator[PointBatch]:
        """All rows in one order, always the same; without ``vectors`` that column is not read."""
        ...


def point_source(given: object, label: str | None = None) -> PointSource:
    """The rows of ``given``: an ExportResult, a path (run, folder of parts, Parquet file) or a data frame.

    ``label`` picks the model of a run that has several. Raises SpecError that names what was expected.
    """
    if isinstance(given, (ParquetPoints, ItemPoints, FramePoints)):
        return given
    if isinstance(given, ExportResult):
        return _of_run(given, label)
    if is_data_frame(given):
        return FramePoints(given)
    if not isinstance(given, (str, Path)):
        raise SpecError(
            f"points come from a run's folder, load_export(folder) or embed(table, ...), got {type(given).__name__}"
        )
    path = Path(given)
    if not path.exists():
        raise SpecError(f"there is nothing at {path}")
    if path.is_file():
        return ParquetPoints((path,))
    parts = tuple(sorted(path.glob("part-*.parquet")))
    if parts:
        return ParquetPoints(parts)
    try:
        return _of_run(load_export(path), label)
    except (FileNotFoundError, ValueError) as exc:
        raise SpecError(str(exc)) from exc


def chosen_rows(source: PointSource, most: int) -> NDArray[np.int64]:
    """Numbers (in the order of reading) of at most ``most`` rows, evenly taken; SpecError where there are none."""
    if most < 1:
        raise SpecError(f"max_points is a number of rows from 1 on, got {most}")
    if not source.n_rows:
        raise SpecError("the table has no rows, so there is nothing to draw")
    return sample_rows(source.n_rows, most)


def chosen_batches(source: PointSource, chosen: NDArray[np.int64], *, vectors: bool = True) -> Iterator[PointBatch]:
    """The rows of ``source`` whose numbers in the order of reading are ``chosen`` (rising), batch by batch."""
    first = 0
    for batch in source.batches(vectors=vectors):
        inside = chosen[np.searchsorted(chosen, first) : np.searchsorted(chosen, first + len(batch))] - first
        first += len(batch)
        if len(inside):
            yield batch.take(inside)


def joined(batches: Sequence[PointBatch]) -> PointBatch:
    """Batches as one."""
    names = [field.name for field in fields(PointBatch)]
    return PointBatch(*(np.concatenate([getattr(batch, name) for batch in batches]) for name in names))


def _of_run(run: ExportResult, label: str | None) -> PointSource:
    known = list(run.models)
    if label is None and len(known) != 1:
        raise SpecError(f"{run.path} holds several models, {', '.join(known)}: choose one by its label")
    if label is not None and label not in known:
        raise SpecError(f"{run.path} has no model labelled {label!r}; it has {', '.join(known)}")
    model = run.model(label or known[0])
    credit = run_credits(run.manifest, model.name, model.model)
    if model.parts:
        return ParquetPoints(tuple(model.parts), credit, model.name)
    return ItemPoints(model, credit)


class ParquetPoints:
    """Rows of the Parquet files that an export writes, read in order and in batches."""

    def __init__(self, parts: Sequence[Path], credit: tuple[str, ...] | None = None, title: str | None = None) -> None:
        self._parts = tuple(parts)
        try:
            files = [pq.ParquetFile(part) for part in parts]
        except (pa.ArrowInvalid, OSError) as exc:
            raise SpecError(f"{parts[0]} is no Parquet file that an export has written: {exc}") from exc
        schema = files[0].schema_arrow
        lacking = [name for name in (*_COLUMNS, "embedding") if name not in schema.names]
        if lacking:
            raise SpecError(f"{parts[0]} has no column {lacking[0]!r}: expected a file that an export has written")
        about = json.loads((schema.metadata or {}).get(b"rsembed", b"{}"))
        named = about.get("model")
        model = named.get("label", "") if isinstance(named, Mapping) else str(named or "")
        self.title = title or model or parts[0].stem
        phrase = model_credit({"name": about.get("licence"), "attribution": about.get("attribution")})
        self.credits = credit if credit is not None else tuple(filter(None, [phrase]))
        self.n_rows = sum(file.metadata.num_rows for file in files)
        self._kind = schema.field("embedding").type

    def batches(self, *, vectors: bool = True) -> Iterator[PointBatch]:
        """See :class:`PointSource`; a row that holds a map gives the mean of its cells."""
        maps = pa.types.is_list(self._kind) or pa.types.is_large_list(self._kind)
        columns = [*_COLUMNS, *(["embedding", *(["grid_shape"] if maps else [])] if vectors else [])]
        for part in self._parts:
            for batch in pq.ParquetFile(part, pre_buffer=False).iter_batches(BATCH_ROWS, columns=columns):
                read = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in _COLUMNS}
                found = np.empty((batch.num_rows, 0), np.float32)
                if vectors:
                    found = _means(batch) if maps else _fixed(batch.column("embedding"))
                windows = [f"{a}..{b}" for a, b in zip(read["start"], read["end"], strict=True)]
                yield PointBatch(
                    read["id"], read["row"], read["lon"], read["lat"], read["status"],
                    np.array(windows, dtype=object), found,
                )  # fmt: skip


def _fixed(column: pa.Array) -> NDArray[np.float32]:
    """A column of vectors of one length as (n, D), NaN for null."""
    vectors = np.full((len(column), column.type.list_size), np.nan, np.float32)
    there = ~column.is_null().to_numpy(zero_copy_only=False)
    vectors[there] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return vectors


def _means(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Maps of any size as the means of their cells (n, D), NaN for null."""
    column, shapes = batch.column("embedding"), batch.column("grid_shape").to_pylist()
    return mean_vectors([
        column[i].values.to_numpy(zero_copy_only=False).reshape(shape) if shape else None
        for i, shape in enumerate(shapes)
    ])  # fmt: skip


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


def mean_vectors(arrays: Sequence[NDArray[Any] | None]) -> NDArray[np.float32]:
    """Vectors (D,) or maps (D, h, w) as vectors (n, D), a map as the mean of its cells; NaN for None."""
    dim = next((each.shape[0] for each in arrays if each is not None), 0)
    means = np.full((len(arrays), dim), np.nan, np.float32)
    for i, each in enumerate(arrays):
        if each is not None:
            cells = each.reshape(dim, -1)
            seen = np.isfinite(cells).all(axis=0)
            if seen.any():
                means[i] = cells[:, seen].mean(axis=1, dtype=np.float32)
    return means


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
