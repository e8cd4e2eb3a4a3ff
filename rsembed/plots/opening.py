"""What a picture is to be made of: one map, or the rows of a run or table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.load import load_export
from rsembed.plots.point_source import PointSource, point_source
from rsembed.saved import ENDINGS, load_embedding


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
        return load_embedding(path) if (path / "zarr.json").is_file() else point_source(path, label)
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
