"""Where finished files are kept, a folder or a bucket: whole or not there, and replaced only on purpose.

:class:`BlobStore` is the seam; :class:`FolderStore` is a folder, ``object_store`` a bucket, and
:func:`open_store` picks one. Names are relative paths with ``/``; a *prefix* is such a name, or
one that ends in ``/`` (everything below it), or empty (everything).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from rsembed.core.errors import SpecError, StoreConflictError, StoreError, StoreFullError
from rsembed.writers.atomic import fsync_folder, sha256_file

ANY = "*"
"""For ``replaces``: whatever stands there, or nothing."""
TMP = "_tmp"
"""Folder of unfinished files in a :class:`FolderStore`; its contents are no objects."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_NAME = re.compile(r"[^/\\\x00-\x1f]+(/[^/\\\x00-\x1f]+)*")
_ATTEMPTS = 100  # at renaming into a folder that somebody else empties meanwhile
_BUCKETS = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


@dataclass(frozen=True)
class Blob:
    """An object: its size in ``bytes``, the ``etag`` of just this version, when it was written (s since 1970)."""

    name: str
    bytes: int
    etag: str
    modified: float


@dataclass(frozen=True)
class Stored:
    """What a put left under ``name``. ``sha256``: of its bytes, in hex."""

    name: str
    bytes: int
    sha256: str
    etag: str


class BlobStore(Protocol):
    """Files by name. Methods raise StoreError (StoreFullError without space); the fault is never the content's."""

    url: str
    scratch: Path
    """Folder on this machine to prepare files in; with a folder it lies on the same file system."""

    def put(self, name: str, source: Path | bytes, *, replaces: str | None = None) -> Stored:
        """Let ``source`` stand under ``name``, whole; a file is gone from where it was, once it stands there.

        ``replaces`` is the etag of what it may take the place of, or :data:`ANY`; None when nothing
        stands there. Where something else does, equal bytes are a success and others a
        StoreConflictError, and nothing is touched.
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """The bytes under ``name``, seekable; raises FileNotFoundError where there is nothing."""
        ...

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """The objects below ``prefix``, or the one of that name; those of one folder follow each other."""
        ...

    def remove(self, prefix: str) -> None:
        """Remove the object of that name or all below; nothing there is no error."""
        ...


class FolderStore:
    """A :class:`BlobStore` in a folder. ``durable``: what is put survives a power cut."""

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self.url = str(root)
        self.scratch = root / TMP
        self._durable = durable

    def put(self, name: str, source: Path | bytes, *, replaces: str | None = None) -> Stored:
        """See :class:`BlobStore`."""
        final = self.root / checked_name(name)
        with self._prepared(name, source) as (temporary, sha256):
            if self._durable:
                with temporary.open("rb") as handle:
                    os.fsync(handle.fileno())
            self._place(temporary, final, sha256, replaces)
            if self._durable:
                fsync_folder(final.parent)
            stands = final.stat()
            if isinstance(source, Path):
                source.unlink(missing_ok=True)
        return Stored(name, stands.st_size, sha256, _etag(stands))

    @contextlib.contextmanager
    def _prepared(self, name: str, source: Path | bytes) -> Iterator[tuple[Path, str]]:
        """``source`` as a file that can be renamed to its place, and its sha256."""
        if isinstance(source, Path) and source.parent == self.scratch:
            with store_errors(self.url):
                yield source, sha256_file(source)
            return
        with scratch_file(self, name) as temporary:
            if isinstance(source, bytes):
                temporary.write_bytes(source)
                yield temporary, hashlib.sha256(source).hexdigest()
            else:
                shutil.copyfile(source, temporary)
                yield temporary, sha256_file(temporary)

    def _place(self, temporary: Path, final: Path, sha256: str, replaces: str | None) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                if replaces != ANY and not self._may_place(temporary, final, sha256, replaces):
                    return
                temporary.replace(final)
                return
            except (FileNotFoundError, FileExistsError):
                # Somebody who emptied the folder removed it under our hands; mkdir, too, says "exists" then.
                if attempt == _ATTEMPTS - 1 or not temporary.exists():
                    raise

    def _may_place(self, temporary: Path, final: Path, sha256: str, replaces: str | None) -> bool:
        """Whether ``temporary`` is still to be renamed; StoreConflictError when other bytes stand there."""
        if replaces is None:
            try:
                os.link(temporary, final)  # the one call that makes a name only where there is none
                return False
            except FileExistsError:
                pass
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
        try:
            etag = _etag(final.stat())
        except FileNotFoundError:
            if replaces is None:
                return True
            raise StoreConflictError(f"{final} is gone; it was to be replaced", "") from None
        if etag == replaces:
            return True
        if sha256_file(final) == sha256:
            return False
        raise StoreConflictError(f"{final}: another file stands there", etag)

    def open(self, name: str) -> BinaryIO:
        """See :class:`BlobStore`."""
        path = self.root / checked_name(name)
        try:
            return path.open("rb")
        except NotADirectoryError as exc:
            raise FileNotFoundError(*exc.args) from exc
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise store_error(self.url, exc) from exc

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """See :class:`BlobStore`; unfinished files are left out."""
        with store_errors(self.url):
            if prefix and not prefix.endswith("/"):
                path = self.root / checked_name(prefix)
                if path.is_file():
                    yield _blob(prefix, path.stat())
                return
            yield from self._walk(prefix if not prefix else checked_name(prefix[:-1]) + "/")

    def _walk(self, prefix: str) -> Iterator[Blob]:
        try:
            with os.scandir(self.root / prefix) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        folders = [entry.name for entry in entries if entry.is_dir() and (prefix or entry.name != TMP)]
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file():
                    yield _blob(prefix + entry.name, entry.stat())
        for name in folders:
            yield from self._walk(f"{prefix}{name}/")

    def remove(self, prefix: str) -> None:
        """See :class:`BlobStore`; folders that are empty then go as well."""
        path = self.root / checked_name(prefix.removesuffix("/"))
        with store_errors(self.url), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if prefix.endswith("/"):
                shutil.rmtree(path)
            else:
                path.unlink()
        for parent in path.parents:
            if parent == self.root:
                return
            try:
                parent.rmdir()
            except OSError:  # not empty, or gone already
                return


def open_store(url: str, *, scratch: Path | None = None, durable: bool = True) -> BlobStore:
    """The store at ``url``: a path, ``file://``, ``s3://``, ``gs://`` or ``az://`` bucket and prefix.

    ``scratch``: where a bucket's files are prepared (default: the system's temporary folder).
    Raises SpecError for another scheme, or when what a bucket needs is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return FolderStore(Path(rest if separator else url).expanduser(), durable=durable)
    if scheme not in _BUCKETS or not rest.split("/")[0]:
        raise SpecError(f"{url}: a store is a folder or an s3://bucket/prefix, gs:// or az:// URL")
    try:
        from rsembed.writers.object_store import ObjectStore
    except ImportError as exc:
        raise SpecError(f"{url} needs more than is installed ({exc}): pip install 'rsembed[fleet]'") from exc
    return ObjectStore(url, scratch or Path(tempfile.gettempdir()))


@contextlib.contextmanager
def scratch_file(store: BlobStore, name: str) -> Iterator[Path]:
    """A path in the store's scratch folder to prepare ``name`` at; nothing is left of it after the block.

    Raises StoreError for errors of the operating system in the block.
    """
    temporary = store.scratch / f"{name.rsplit('/', 1)[-1]}.{uuid.uuid4().hex}"
    with store_errors(store.url):
        store.scratch.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Raise what the operating system refuses in the block as StoreError."""
    try:
        yield
    except OSError as exc:
        raise store_error(url, exc) from exc


def store_error(url: str, error: OSError) -> StoreError:
    """``error`` as the store's own."""
    if error.errno in _FULL:
        return StoreFullError(f"no space is left in {url}: {error}")
    return StoreError(f"{url} cannot be used: {error}")


def checked_name(name: str) -> str:
    """``name`` if it is a relative path that stays below its root; raises SpecError otherwise."""
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise SpecError(f"{name!r} is no name for a stored file: a relative path with '/', without '.' or '..'")
    return name


def _blob(name: str, stat: os.stat_result) -> Blob:
    return Blob(name, stat.st_size, _etag(stat), stat.st_mtime)


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
