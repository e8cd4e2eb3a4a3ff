"""Which layout a path holds."""

from __future__ import annotations

import os
from pathlib import Path

from rsembed.load.combined import load_combined
from rsembed.load.dataset import load_dataset
from rsembed.load.per_item import holds_items, load_per_item
from rsembed.load.result import ExportResult


def load_export(path: str | os.PathLike[str]) -> ExportResult:
    """The export at ``path``: a dataset's folder, a folder of items, or a combined file (.npz, .nc or its .json).

    Files of the reference system are read as well. Vectors, pixels and facts are read when they are
    asked for. Raises FileNotFoundError for a path that is not there, ValueError for one that holds no
    finished export, or lacks files of it.
    """
    root = Path(path)
    if not root.exists():
        begun = root.with_name(f".{root.name}.rsembed").is_dir()
        more = "; one has begun and not ended: run the same export again" if begun else ""
        raise FileNotFoundError(f"there is no export at {root}{more}")
    if not root.is_dir():
        return load_combined(root)
    return load_per_item(root) if holds_items(root) else load_dataset(root)
