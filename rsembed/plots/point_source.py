"""Rows of many places, wherever they lie, as batches; see :func:`rsembed.plots.opening.point_source`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.plots.colours import sample_rows

BATCH_ROWS = 2048
NO_MAPS = "the rows hold vectors, not maps; export with output=OutputSpec.grid()"


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


@runtime_checkable
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

    def map_at(self, position: int) -> Embedding:
        """The map of the row with that number in the order of reading; SpecError where rows hold vectors."""
        ...


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
