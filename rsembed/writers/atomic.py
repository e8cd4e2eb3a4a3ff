"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from rsembed.core.errors import ExportError

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")


def safe_label(label: str) -> str:
    """``label`` if it can name a folder inside the output; raises ExportError otherwise."""
    taken = label.lower().endswith((".json", ".parquet", ".npz"))
    if not _LABEL.fullmatch(label) or ".." in label or taken:
        raise ExportError(
            f"{label!r} cannot name a folder: use letters, digits and . _ + = - (at most 100, no '..'), "
            "starting with a letter or digit and not ending like a file of the run (.json, .parquet, .npz)"
        )
    return label


@contextlib.contextmanager
def atomic_path(final: Path, tmp_dir: Path) -> Iterator[Path]:
    """A path to write to; when the block ends well its file stands at ``final``, fsynced.

    ``tmp_dir`` must be on the same file system. If the block raises, nothing is left.
    """
    tmp_dir.mkdir(parents=True, exist_ok=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = tmp_dir / f"{final.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(final)
        fsync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(final: Path, value: object, tmp_dir: Path) -> None:
    """``value`` as byte-stable JSON (sorted keys, no NaN), atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_path(final, tmp_dir) as path:
        path.write_text(text + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
