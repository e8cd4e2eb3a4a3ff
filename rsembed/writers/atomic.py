"""What files are called, and their bytes made stable and known."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from rsembed.core.errors import ExportError

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")


def safe_label(label: str) -> str:
    """``label`` if it can name a folder inside the output; raises ExportError otherwise."""
    taken = label.lower().endswith((".json", ".parquet", ".npz", ".zarr"))
    if not _LABEL.fullmatch(label) or ".." in label or taken:
        raise ExportError(
            f"{label!r} cannot name a folder: use letters, digits and . _ + = - (at most 100, no '..'), "
            "starting with a letter or digit and not ending like a file of the run (.json, .parquet, .npz, .zarr)"
        )
    return label


def fsync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(value: object) -> str:
    """``value`` as byte-stable JSON: sorted keys, no NaN, a line's end at the end."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
