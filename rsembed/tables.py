"""A table in, the same table with embeddings out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import pyarrow.parquet as pq

from rsembed.api import get_provider
from rsembed.core.card import OptionValue, Recipe
from rsembed.core.errors import ModelError, SpecError
from rsembed.core.notices import warn_user
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, OutputSpec, SensorSpec, TemporalSpec
from rsembed.pipelines.exporter import ExportSummary
from rsembed.pipelines.keywords import Backend, InputPrep, checked_temporal, model_request
from rsembed.pipelines.request import DatasetTarget, ExportConfig, ExportModelRequest, RunRequest
from rsembed.pipelines.rows.formats_memory import is_data_frame
from rsembed.pipelines.rows.places import GEOMETRY_NAMES, LAT_NAMES, LON_NAMES
from rsembed.pipelines.rows.source import find_column
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import export
from rsembed.progress_bars import progress_for
from rsembed.tools.tiling import Context
from rsembed.writers.vectors import VectorReader

if TYPE_CHECKING:
    import pandas as pd

_WINDOW_NAMES = ("start", "end", "date", "year")
_ADDED = ("embedding", "status")

T = TypeVar("T")


def embed(
    table: T | Sequence[tuple[float, float]],
    model: str,
    *,
    year: int | None = None,
    temporal: TemporalSpec | None = None,
    around_days: int | None = None,
    out: str | Path | None = None,
    buffer_m: float | None = None,
    backend: Backend | None = "auto",
    catalog: str | Path | None = None,
    device: str = "auto",
    recipe: Recipe = "authors",
    context: Context | None = None,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    pooling: Literal["mean", "max"] = "mean",
    input_prep: InputPrep | None = None,
    precision: Literal["fp32", "bf16", "tf32"] = "fp32",
    batch_size: int | None = None,
    threads: int = 1,
    fetch_workers: int = 8,
    min_valid_fraction: float = 0.5,
    show_progress: bool = True,
    cache: bool = True,
    **options: OptionValue,
) -> T | pd.DataFrame:
    """A copy of ``table`` with columns ``embedding`` and ``status``; same index, same order.

    ``table``: a GeoDataFrame, a DataFrame with lon and lat (or a geometry) or a list of (lon, lat),
    which comes back as a DataFrame. ``embedding`` holds float32 arrays (D,), None where ``status``
    is neither ``ok`` nor ``low_quality``. When: columns ``start,end``, ``date`` (with
    ``around_days``) or ``year`` of the table, else ``year`` or ``temporal``, else the last complete
    year. ``out``: a folder for the whole result, which the same call resumes; the table then needs
    unique ids, and its columns are kept there. ``cache``: use and keep fetched pixels in the user's
    cache folder. ``options``: the model's own.

    Raises RowError, SpecError, ModelError or ProviderError before any work; rows that fail are
    marked ``failed``, never raised.
    """
    frame = _frame(table)
    clash = [name for name in _ADDED if name in frame.columns]
    if clash:
        raise SpecError(f"the table has a column {clash[0]!r} already; rename or drop it")
    if year is not None and temporal is not None:
        raise SpecError("give year or temporal, not both")
    if not len(frame):
        return cast("T", _with_answers(frame, {}, {}))
    window = TemporalSpec.year(year) if year is not None else None if temporal is None else checked_temporal(temporal)
    if window is None and around_days is None and not _says_when(frame):
        warn_user("neither year nor temporal was given: the last complete year is used")
    config = ExportConfig(
        batch_size=batch_size,
        threads=threads,
        precision=precision,
        recipe=recipe,
        context=context,
        input_prep=input_prep,
        buffer_m=buffer_m,
        min_valid_fraction=min_valid_fraction,
        fetch_workers=fetch_workers,
    )
    request = RunRequest(
        (_model_request(model, options, sensor, fetch, modality),), OutputSpec.pooled(pooling), config, device
    )
    policy = WindowPolicy(default=() if window is None else (window.window,), around_days=around_days)

    def run(places: object, folder: Path, *, pad: bool) -> Any:
        summary = export(
            request,
            places,
            windows=policy,
            provider=get_provider(backend, catalog=catalog),
            target=DatasetTarget(folder),
            settings=Settings.from_environment().with_input_cache(cache),
            progress=progress_for(show_progress),
            pad=pad,
        )
        return _with_answers(frame, *_answers(summary))

    if out is not None:
        if not isinstance(out, (str, os.PathLike)):
            raise SpecError(f"out must be a folder, got {out!r}")
        return cast("T", run(frame, Path(out), pad=True))
    with tempfile.TemporaryDirectory(prefix="rsembed-embed-") as scratch:
        return cast("T", run(_places_only(frame), Path(scratch) / "run", pad=False))


def _frame(table: object) -> Any:
    """``table`` as a (Geo)DataFrame."""
    if is_data_frame(table):
        return table
    if isinstance(table, (Sequence, np.ndarray)) and not isinstance(table, (str, bytes)):
        import pandas as pd

        try:
            pairs = np.asarray(table, dtype=np.float64).reshape(len(table), 2)
        except (TypeError, ValueError) as exc:
            raise SpecError("a list of places must hold pairs (lon, lat) in degrees") from exc
        return pd.DataFrame(pairs, columns=["lon", "lat"])
    raise SpecError(f"table must be a GeoDataFrame, a DataFrame or a list of (lon, lat), got {type(table).__name__}")


def _model_request(
    model: str,
    options: dict[str, OptionValue],
    sensor: SensorSpec | None,
    fetch: FetchSpec | None,
    modality: str | None,
) -> ExportModelRequest:
    parsed = ExportModelRequest.parse(model)
    twice = sorted(set(parsed.model_config) & set(options))
    if twice:
        raise ModelError(f"option {twice[0]!r} is given twice: in {model!r} and by keyword")
    merged = {**parsed.model_config, **options}
    named = replace(parsed, modality=modality or parsed.modality, model_config=merged)
    return model_request(named, sensor, fetch, None)


def _places_only(frame: Any) -> Any:
    """The columns that say where and when, with row numbers as ids: the user's own need not be unique."""
    names = [name for name in frame.columns if isinstance(name, str)]
    geometry = getattr(frame, "active_geometry_name", None) or find_column(names, GEOMETRY_NAMES)
    if geometry is not None:
        place = [geometry]
    else:
        place = [name for name in (find_column(names, LON_NAMES), find_column(names, LAT_NAMES)) if name]
    when = [name for name in (find_column(names, (each,)) for each in _WINDOW_NAMES) if name]
    if geometry is None and len(place) != 2:
        return frame  # on to the error that says what is looked for
    return frame[[*place, *when]].assign(id=np.arange(len(frame)))


def _says_when(frame: Any) -> bool:
    names = [name for name in frame.columns if isinstance(name, str)]
    return any(find_column(names, (each,)) for each in ("start", "year"))


def _answers(summary: ExportSummary) -> tuple[dict[int, Any], dict[int, str]]:
    """Input row -> vector, and -> status."""
    (label,) = summary.counts
    vectors: dict[int, Any] = {}
    statuses: dict[int, str] = {}
    for part in summary.parts(label):
        file = pq.ParquetFile(part, pre_buffer=False)
        reader = VectorReader(file.schema_arrow)
        for batch in file.iter_batches(8192, columns=["row", "status", "embedding"]):
            rows = batch.column("row").to_pylist()
            statuses.update(zip(rows, batch.column("status").to_pylist(), strict=True))
            column = batch.column("embedding")
            found = reader.vectors(column)
            there = np.flatnonzero(~column.is_null().to_numpy(zero_copy_only=False))
            vectors.update((rows[i], found[i]) for i in there)
    return vectors, statuses


def _with_answers(frame: Any, vectors: dict[int, Any], statuses: dict[int, str]) -> Any:
    column = np.empty(len(frame), dtype=object)
    for i in range(len(frame)):
        column[i] = vectors.get(i)
    answered = frame.copy()
    answered["embedding"] = column
    answered["status"] = np.array([statuses[i] for i in range(len(frame))], dtype=object)
    return answered
