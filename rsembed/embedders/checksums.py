"""sha256 of large files, computed once per content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from rsembed.core.settings import Settings

logger = logging.getLogger(__name__)
_lock = threading.Lock()


def checksum(path: Path, settings: Settings) -> str:
    """sha256 of ``path``, remembered per (path, size, modification time) in the cache folder."""
    stat = path.stat()
    key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
    store = settings.cache_dir / "sha256.json"
    with _lock:
        known = _read_json(store).get(key)
        if isinstance(known, list) and known[:2] == stamp:
            return str(known[2])
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with _lock:
        try:
            _write_json(store, {**_read_json(store), key: [*stamp, digest]})
        except OSError as exc:
            logger.info("checksum_not_cached", extra={"store": str(store), "reason": str(exc)})
    return digest


def _read_json(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # a cache: absent or damaged means that sums are computed again
    return data if isinstance(data, dict) else {}


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".sha256-", delete=False) as part:
        json.dump(data, part)
    os.replace(part.name, path)
