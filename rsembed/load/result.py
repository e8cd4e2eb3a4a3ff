"""An export as it is read back: the same words for every layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsembed.core.display import Facts
from rsembed.load.views import model_frame, model_table, model_xarray

if TYPE_CHECKING:
    import geopandas
    import xarray

RunStatus = Literal["ok", "partial", "failed"]
"""``ok``: all is there; ``failed``: nothing is; ``partial``: some."""
Layout = Literal["dataset", "per_item", "combined"]
Meta = dict[str, Any]
"""JSON at the edge."""


class ModelData(Protocol):
    """Where the numbers of one model are read from."""

    def embeddings(self) -> NDArray[Any] | None:
        """See :attr:`ModelResult.embeddings`."""
        ...

    def inputs(self) -> NDArray[Any] | None:
        """See :attr:`ModelResult.inputs`."""
        ...

    def meta(self) -> list[Meta]:
        """See :attr:`ModelResult.meta`."""
        ...

    def statuses(self) -> Sequence[str]:
        """What became of each item: ``ok``, ``low_quality``, ``no_data``, ``collection_gap`` or ``failed``."""
        ...

    def table(self, columns: list[str] | None) -> pa.Table | None:
        """The dataset's own rows; None where there is no dataset."""
        ...


class ItemPlaces(Protocol):
    """Where and when the items are."""

    @property
    def ids(self) -> Sequence[str]:
        """The users' own, or numbers."""
        ...

    @property
    def spatials(self) -> Sequence[Meta]:
        """Fields of a PointBuffer or BBox; empty where a place is not known."""
        ...

    @property
    def windows(self) -> Sequence[tuple[str, str] | None]:
        """First day and day after the last one, ISO; None where they are not known."""
        ...


@dataclass(frozen=True)
class KnownPlaces:
    """An :class:`ItemPlaces` in memory."""

    ids: Sequence[str]
    spatials: Sequence[Meta]
    windows: Sequence[tuple[str, str] | None]


@dataclass(frozen=True)
class ModelResult:
    """What one model gave. ``name``: its label, ``model``: its id; ``error``: why, where there is nothing at all.

    ``folder``: of its dataset (None in other layouts).
    """

    name: str
    model: str
    status: RunStatus
    n_items: int
    error: str | None
    places: ItemPlaces = field(repr=False)
    data: ModelData = field(repr=False)
    folder: Path | None = None
    known_dim: int | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The same as ``name``."""
        return self.name

    @cached_property
    def embeddings(self) -> NDArray[Any] | None:
        """Float32 (N, D) or (N, D, h, w) in the order of the places, NaN where there is none; None for nothing at all.

        Maps of different shapes: an array (N,) of arrays, None where there is none.
        """
        return None if self.status == "failed" else self.data.embeddings()

    @cached_property
    def inputs(self) -> NDArray[Any] | None:
        """The pixels that were saved, float32 (N, [T,] C, H, W) with NaN, or (N,) of arrays; None when none were."""
        return self.data.inputs()

    @cached_property
    def meta(self) -> list[Meta]:
        """What is known about each item's embedding; empty where nothing is."""
        return self.data.meta()

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Items by status."""
        found: dict[str, int] = {}
        for status in self.data.statuses():
            found[status] = found.get(status, 0) + 1
        return found

    @property
    def dim(self) -> int:
        """Length of a vector."""
        if self.known_dim is not None:
            return self.known_dim
        first = self.embedding()
        if first.dtype == object:
            sizes = [each.shape[0] for each in first if each is not None]
            if not sizes:
                raise ValueError(f"model {self.name!r} has no embedding at all: its dimension is not known")
            return int(sizes[0])
        return int(first.shape[1])

    @property
    def parts(self) -> list[Path]:
        """The dataset's files, in order of ``seq``; none in other layouts."""
        return [] if self.folder is None else sorted(self.folder.glob("part-*.parquet"))

    def embedding(self) -> NDArray[Any]:
        """:attr:`embeddings`; ValueError where there are none."""
        if self.embeddings is None:
            why = f"it failed for every place: {self.error}" if self.status == "failed" else "they were not saved"
            raise ValueError(f"model {self.name!r} has no embeddings (status {self.status}): {why}")
        return self.embeddings

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows (or these ``columns`` of them) in the order of the input."""
        found = self.data.table(columns)
        return model_table(self, columns) if found is None else found

    def to_xarray(self) -> xarray.DataArray:
        """:meth:`embedding` with the dimensions (item, dim[, y, x]) and id, status, lon, lat, start, end of the items.

        Maps of different shapes are padded with NaN, with a warning. Raises SpecError without xarray.
        """
        return model_xarray(self)

    def to_geopandas(self) -> geopandas.GeoDataFrame:
        """One row an item: id, status, start, end, geometry (degrees), embedding.

        Raises SpecError without geopandas.
        """
        return model_frame(self)


@dataclass(frozen=True, repr=False)
class ExportResult:
    """An export. ``models`` by label; ``manifest`` as written (of the first item where each has its own).

    ``path``: what was opened; ``n_items``: places, one for each window.
    """

    path: Path
    layout: Layout
    n_items: int
    models: Mapping[str, ModelResult]
    places: ItemPlaces = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)  # JSON at the edge

    @property
    def status(self) -> RunStatus:
        """See :data:`RunStatus`; over all models."""
        found = {model.status for model in self.models.values()}
        return next(iter(found)) if len(found) == 1 else "partial"

    @property
    def spatials(self) -> list[Meta]:
        """The places, as the fields of PointBuffers and BBoxes."""
        return list(self.places.spatials)

    @property
    def temporal(self) -> Meta | None:
        """The window of all items; None where they differ."""
        found = set(self.places.windows)
        window = next(iter(found)) if len(found) == 1 else None
        return None if window is None else {"start": window[0], "end": window[1]}

    @property
    def ok_models(self) -> list[str]:
        """Labels of which nothing failed."""
        return [label for label, model in self.models.items() if model.status == "ok"]

    @property
    def failed_models(self) -> list[str]:
        """Labels of which everything failed."""
        return [label for label, model in self.models.items() if model.status == "failed"]

    def model(self, label: str) -> ModelResult:
        """What one model gave; KeyError that names the known labels."""
        if label not in self.models:
            raise KeyError(f"no model {label!r} in {self.path}; it has {', '.join(self.models)}")
        return self.models[label]

    def embedding(self, label: str) -> NDArray[Any]:
        """See :meth:`ModelResult.embedding`."""
        return self.model(label).embedding()

    def table(self, label: str, columns: list[str] | None = None) -> pa.Table:
        """See :meth:`ModelResult.table`."""
        return self.model(label).table(columns)

    def to_xarray(self, label: str) -> xarray.DataArray:
        """See :meth:`ModelResult.to_xarray`."""
        return self.model(label).to_xarray()

    def to_geopandas(self, label: str) -> geopandas.GeoDataFrame:
        """See :meth:`ModelResult.to_geopandas`."""
        return self.model(label).to_geopandas()

    def _facts(self) -> Facts:
        rows = {
            label: f"{model.status}: {model.error}" if model.error else model.status
            for label, model in self.models.items()
        }
        return Facts(f"{self.n_items:,} items in {self.path} ({self.layout})", rows)

    def __repr__(self) -> str:
        return self._facts().text()

    def _repr_html_(self) -> str:
        return self._facts().html()


def status_of(statuses: Sequence[str]) -> RunStatus:
    """One word for what became of all items; only ``failed`` counts against it."""
    failed = sum(status == "failed" for status in statuses)
    return "ok" if not failed else "failed" if failed == len(statuses) else "partial"


def stacked(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Arrays of the items as one, float32: stacked with NaN where there is none; (N,) of arrays where shapes differ.

    None where there is none at all.
    """
    there = [array for array in arrays if array is not None]
    if not there:
        return None
    if any(array.shape != there[0].shape for array in there):
        loose = np.empty(len(arrays), dtype=object)
        for i, array in enumerate(arrays):
            loose[i] = None if array is None else np.asarray(array, np.float32)
        return loose
    whole = np.full((len(arrays), *there[0].shape), np.nan, np.float32)
    for i, array in enumerate(arrays):
        if array is not None:
            whole[i] = array
    return whole
