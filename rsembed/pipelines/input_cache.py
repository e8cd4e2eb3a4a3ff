"""Fetched patches in the user's cache folder, so that another run over the same places asks for nothing again.

``<folder>/<2 hex>/<request key>-<bands>.patch`` holds one checksummed ``input_record`` each, written
under another name and renamed; so any number of processes may share the folder. What is damaged
is removed and fetched again. A hit renews a file's time; when the files come near the bound, those
unused for longest go, by one process at a time. The cache may fail: then a run fetches as without it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Json, Patch
from rsembed.core.settings import Settings
from rsembed.pipelines.input_record import decode, decode_header, encode, is_intact

logger = logging.getLogger(__name__)

RECENT = dt.timedelta(days=7)
"""A window that ended more recently may still get scenes, so it is not kept."""
KEPT_SHARE = 0.9
"""What a sweep leaves of the bound, when it has to remove files."""
ROOM_SHARE = 0.05
"""Of the bound: what a process writes between two sweeps. A larger patch is not kept."""
FREE_BYTES = 2 * 10**9
"""Of the disk: below this, and what a process may write between two sweeps, nothing is kept: runs need the space."""
PAUSE_S = 60.0
"""So long nothing is kept after the disk was found full."""
ABANDONED_S = 3600.0
"""Age from which an unfinished file is nobody's any more."""

_SUFFIX = ".patch"
_FOLDER = re.compile(r"[0-9a-f]{2}")
_TMP = "_tmp"
_LOCK = "_lock"


@dataclass(frozen=True)
class CacheInfo:
    """What lies in a cache: patches, their bytes, and how many bytes may."""

    folder: Path
    patches: int
    bytes: int
    max_bytes: int


def cache_folder(settings: Settings) -> Path:
    """Where fetched patches are kept."""
    return settings.cache_dir / "inputs"


def open_cache(settings: Settings, provider: Json) -> InputCache | None:
    """The cache for a source that says ``provider`` of itself; None where it is off or the source not one to cache."""
    if not settings.input_cache_bytes or not _is_remote(provider):
        return None
    return InputCache(cache_folder(settings), settings.input_cache_bytes)


def _is_remote(provider: Json) -> bool:
    """Earth Engine, or a STAC catalogue by its address.

    Files on this machine are soon read again, and the user may change them; what a plug-in says of
    itself nobody knows.
    """
    about = provider if isinstance(provider, Mapping) else {}
    return about.get("backend") == "gee" or (about.get("backend") == "stac" and "://" in str(about.get("catalog")))


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class InputCache:
    """Patches by request key in ``folder``, at most about ``max_bytes``. Safe to use from threads and processes."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        today: Callable[[], dt.date] = _today,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._today = today
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._room = 0
        self._paused_until = 0.0
        self._broken = False

    def get(self, key: str, request: FetchRequest) -> Patch | None:
        """The patch that ``request`` would give, with just its bands; None when it is not there."""
        if not self._is_kept(request):
            return None
        for path in self._candidates(key, request.bands):
            patch = self._read(path, key, request)
            if patch is not None:
                with contextlib.suppress(OSError):
                    os.utime(path)
                return patch
        return None

    def put(self, key: str, request: FetchRequest, patch: Patch) -> None:
        """Keep what ``request`` gave; a failure is told once and otherwise ignored."""
        if self._broken or not self._is_kept(request):
            return
        record, _ = encode(key, patch)
        if len(record) > self.max_bytes * ROOM_SHARE:
            return
        temporary = self.folder / _TMP / uuid.uuid4().hex
        try:
            if not self._make_room(len(record)):
                return
            path = self._path(key, patch.bands)
            for folder in (temporary.parent, path.parent):
                folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(record)
            temporary.replace(path)
        except OSError as exc:
            self._broken = True
            logger.warning("input_cache_off", extra={"folder": str(self.folder), "error": str(exc)})
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def info(self) -> CacheInfo:
        """What is there."""
        sizes = [size for _, size, _ in self._entries()]
        return CacheInfo(self.folder, len(sizes), sum(sizes), self.max_bytes)

    def clear(self) -> CacheInfo:
        """Remove every patch; returns what was there. Raises OSError when the folder cannot be changed."""
        found = self.info()
        for _, _, path in list(self._entries()):
            path.unlink(missing_ok=True)
        self._remove_abandoned(0.0)
        return found

    def _is_kept(self, request: FetchRequest) -> bool:
        # Files of products have a folder of their own.
        return request.recipe.product is None and request.bins[-1].end <= self._today() - RECENT

    def _path(self, key: str, bands: tuple[str, ...]) -> Path:
        short = hashlib.sha256(",".join(bands).encode()).hexdigest()[:12]
        return self.folder / key[:2] / f"{key}-{short}{_SUFFIX}"

    def _candidates(self, key: str, bands: tuple[str, ...]) -> Iterator[Path]:
        """Files that may hold ``bands`` of ``key``: the one of just these first, then those of others."""
        exact = self._path(key, bands)
        yield exact
        with contextlib.suppress(OSError):
            others = sorted(exact.parent.glob(f"{key}-*{_SUFFIX}"))
            yield from (path for path in others if path != exact)

    def _read(self, path: Path, key: str, request: FetchRequest) -> Patch | None:
        try:
            record = path.read_bytes()
        except OSError:
            return None
        if not is_intact(record):
            logger.warning("input_cache_damaged", extra={"file": str(path)})
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        written, header = decode_header(record)
        windows = tuple(frame.window for frame in header.frames)
        if (written, header.grid, windows) != (key, request.grid, request.bins):
            return None
        if not set(request.bands) <= set(header.bands):
            return None
        patch = decode(memoryview(record), header)
        return None if patch is None else patch.select(request.bands)

    # Bounds --------------------------------------------------------------------------------------

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` bytes may be written; looks at the whole cache now and then."""
        with self._lock:
            if self._room < size:
                if time.monotonic() < self._paused_until:
                    return False
                self._sweep()
                self._room = int(self.max_bytes * ROOM_SHARE)
                if self._free_bytes(self.folder) < FREE_BYTES + self._room:
                    self._room, self._paused_until = 0, time.monotonic() + PAUSE_S
                    return False
            self._room -= size
            return True

    def _sweep(self) -> None:
        """Remove what was unused for longest when the bound is near; nothing while another process does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            self._remove_abandoned(ABANDONED_S)
            entries = sorted(self._entries(), key=lambda entry: entry[0])
            total = sum(size for _, size, _ in entries)
            if total + self.max_bytes * ROOM_SHARE <= self.max_bytes:
                return
            removed = 0
            for _, size, path in entries:
                if total <= self.max_bytes * KEPT_SHARE:
                    break
                path.unlink(missing_ok=True)
                total -= size
                removed += 1
            logger.info("input_cache_swept", extra={"removed": removed, "bytes": total})

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """``(last use in s since 1970, bytes, file)`` of every patch, in no order."""
        try:
            folders = [path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name)]
        except OSError:
            return
        for folder in folders:
            with contextlib.suppress(OSError), os.scandir(folder) as found:
                for entry in found:
                    with contextlib.suppress(OSError):
                        if entry.name.endswith(_SUFFIX):
                            stat = entry.stat()
                            yield stat.st_mtime, stat.st_size, Path(entry.path)

    def _remove_abandoned(self, older_s: float) -> None:
        """Remove files that a process began to write ``older_s`` seconds ago or more, and died."""
        with contextlib.suppress(OSError):
            for path in (self.folder / _TMP).iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime <= time.time() - older_s:
                        path.unlink()
