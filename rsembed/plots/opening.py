"""What a picture is to be made of: one map, or the rows of a run or table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.load import ExportResult, load_export
from rsembed.pipelines.rows.formats_memory import is_data_frame
from rsembed.plots.credits import run_credits
from rsembed.plots.memory_points import FramePoints, ItemPoints
from rsembed.plots.parquet_points import ParquetPoints
from rsembed.plots.point_source import PointSource
from rsembed.plots.row_search import find_position
from rsembed.saved import ENDINGS, load_embedding


def point_source(given: object, label: str | None = None) -> PointSource:
    """The rows of ``given``: an ExportResult, a path (run, folder of parts, Parquet file) or a data frame.

    ``label`` picks the model of a run that has several. Raises SpecError that names what was expected.
    """
    if isinstance(given, PointSource):
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


def map_of_row(rows: PointSource, row: tuple[float, float] | str | int) -> Embedding:
    """The map of one row (an id, a number in the input, or nearest to a place) of a run whose rows hold maps."""
    return rows.map_at(find_position(rows, row))


def opened(what: object, label: str | None = None) -> Embedding | PointSource:
    """``what`` as an Embedding (also from an array or a saved file) or as rows (see :func:`point_source`).

    A file whose name says nothing is looked into. Raises SpecError that names what was expected.
    """
    if isinstance(what, Embedding):
        return what
    if isinstance(what, np.ndarray):
        return Embedding(what)
    if not isinstance(what, (str, Path)):
        return point_source(what, label)
    path = Path(what)
    if path.is_dir():
        if (path / "zarr.json").is_file():
            # A dataset's own store lies beside its parts, which say more.
            of_run = (path.parent / "manifest.json").is_file()
            return point_source(path.parent, path.stem) if of_run else load_embedding(path)
        return point_source(path, label)
    if not path.exists() or path.suffix.lower() == ".parquet":
        return point_source(path, label)
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(
            f"{path.name!r} is nothing that can be drawn: expected a run's folder, a .parquet file of one, or a saved "
            f"embedding ({', '.join(ENDINGS)})"
        )
    try:
        return load_embedding(path)
    except SpecError as no_embedding:
        try:
            run = load_export(path)
        except (ValueError, OSError, KeyError):
            raise no_embedding from None
        return point_source(run, label)
