"""A table of places as the rest of a run sees it: record batches and where its columns lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyproj

from rsembed.core.errors import SpecError

BATCH_ROWS = 16_384
"""Rows that are in memory at a time."""

_LONLAT = pyproj.CRS.from_user_input("OGC:CRS84")


@dataclass(frozen=True)
class TableSource:
    """Raw record batches of one input, in input order, and what is known before reading them.

    ``name`` is how errors call it. ``n_rows`` is None where counting would mean reading.
    ``geometry`` names the column that the format itself calls the geometry (None: found by
    name). ``crs`` is None where coordinates are degrees already (EPSG:4326). ``fallback_id``
    names a column of feature numbers that serves as id where there is no id column.
    ``hidden`` columns belong to the format, not to the user. ``buffer_m``: the half side in
    metres that the given PointBuffers agree on.
    """

    name: str
    schema: pa.Schema
    read: Callable[[Sequence[str]], Iterable[pa.RecordBatch]]
    n_rows: int | None = None
    geometry: str | None = None
    crs: pyproj.CRS | None = None
    fallback_id: str | None = None
    hidden: frozenset[str] = frozenset()
    buffer_m: float | None = None

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.schema.names if self.schema.names.count(name) > 1})
        if twice:
            raise SpecError(f"{self.name}: column {', '.join(map(repr, twice))} appears twice; rename one")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the user's columns."""
        return tuple(name for name in self.schema.names if name not in self.hidden)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of at most :data:`BATCH_ROWS` rows with (at least) ``columns``.

        Raises SpecError naming the input where it cannot be read.
        """
        for batch in self.read(columns):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


@contextmanager
def reading(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what pyarrow (and ``errors``) raise while reading ``name`` into a SpecError."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeError, *errors) as exc:
        reason = str(exc).strip() or type(exc).__name__
        raise SpecError(f"cannot read {name}: {reason}") from exc


def plain(column: pa.Array) -> pa.Array:
    """``column`` without extension type, dictionary and views: Arrow's functions know no others everywhere."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def find_column(names: Iterable[str], candidates: Sequence[str]) -> str | None:
    """The column called like one of ``candidates``, upper or lower case; earlier candidates first."""
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    for candidate in candidates:
        if candidate in by_lower:
            return by_lower[candidate]
    return None


def source_crs(name: str, crs: object) -> pyproj.CRS | None:
    """``crs`` (name, WKT, PROJJSON, pyproj CRS) if coordinates have to be reprojected, else None.

    A missing CRS counts as degrees. Raises SpecError when PROJ does not know it.
    """
    if crs is None:
        return None
    try:
        known = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as exc:
        raise SpecError(
            f"{name}: PROJ does not know the coordinate system {str(crs)[:80]!r}; reproject to EPSG:4326"
        ) from exc
    return None if known.equals(_LONLAT, ignore_axis_order=True) else known
