"""A :class:`BlobStore` in a bucket of S3, Google Cloud Storage or Azure, by ``obstore``.

Credentials and endpoints come from where each service's own tools look for them (``AWS_*``,
``GOOGLE_*``, ``AZURE_*``). Objects go up in one request each, so that "only if nothing stands
there" and "only in place of that version" are decided by the service, and no half of an upload
can be left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from rsembed.core.errors import SpecError, StoreConflictError, StoreError, StoreFullError
from rsembed.writers.atomic import sha256_file
from rsembed.writers.store import ANY, Blob, Stored, checked_name, store_errors

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode, PutResult
    from obstore.store import ClientConfig, RetryConfig

PUT_LIMIT_BYTES = 5 << 30
"""The largest object that one request may carry; larger ones go up in pieces."""
WHOLE_BYTES = 8 << 20
"""Objects up to this size are read in one request."""
_RANGE_BYTES = 256 << 10
"""Least that is read of a larger one at a time."""
_CHUNK_BYTES = 8 << 20

_CLIENT: ClientConfig = {
    "allow_http": True,  # only an endpoint that the user spells http:// leads there
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=120),
    "timeout": timedelta(minutes=20),
}
_RETRY: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
# The number counts as a status only: messages tell times as well, such as "in 507.2ms".
_FULL = re.compile(r"status code: 507\b|StorageFull|InsufficientStorage|QuotaExceeded")


class ObjectStore:
    """The objects below ``url``; ``scratch``: a folder on this machine to prepare files in.

    Raises SpecError when the URL or the service's settings in the environment make no sense.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        self.url = url.rstrip("/")
        self.scratch = scratch
        try:
            self._store = obstore.store.from_url(self.url, client_options=_CLIENT, retry_config=_RETRY)
        except (BaseError, ValueError, TypeError) as exc:
            raise SpecError(f"{url} cannot be opened: {_plain(exc)}") from exc

    def put(self, name: str, source: Path | bytes, *, replaces: str | None = None) -> Stored:
        """See :class:`BlobStore`."""
        checked_name(name)
        if isinstance(source, bytes):
            size, sha256 = len(source), hashlib.sha256(source).hexdigest()
        else:
            with store_errors(str(source.parent)):
                size, sha256 = source.stat().st_size, sha256_file(source)
        try:
            with self._errors():
                result = self._upload(name, source, size, replaces)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError) as exc:
            etag = self._equal(name, size, sha256, exc)
        else:
            etag = _etag(result.get("e_tag"), result.get("version"))
        if isinstance(source, Path):
            source.unlink(missing_ok=True)
        return Stored(name, size, sha256, etag)

    def _upload(self, name: str, source: Path | bytes, size: int, replaces: str | None) -> PutResult:
        mode = self._mode(name, replaces)
        if size > PUT_LIMIT_BYTES:
            # Pieces know no conditions: between this look and the last piece another may come.
            self._check_standing(name, replaces)
            return obstore.put(self._store, name, source, chunk_size=_CHUNK_BYTES, max_concurrency=4)
        if isinstance(source, bytes) or size == 0:
            return obstore.put(self._store, name, source if size else b"", mode=mode, use_multipart=False)
        with source.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return obstore.put(self._store, name, image, mode=mode, use_multipart=False)

    def _mode(self, name: str, replaces: str | None) -> PutMode:
        if replaces is None:
            return "create"
        if replaces == ANY:
            return "overwrite"
        e_tag, _, version = replaces.partition("|")
        if not version and self.url.startswith("gs:"):
            # This service goes by version, which its listing does not tell.
            standing = obstore.head(self._store, name)
            if standing["e_tag"] != e_tag:
                raise PreconditionError(name)
            version = standing["version"] or ""
        return {"e_tag": e_tag, "version": version} if version else {"e_tag": e_tag}

    def _check_standing(self, name: str, replaces: str | None) -> None:
        standing = next(self.list(name), None)
        if replaces not in (ANY, standing and standing.etag):
            raise PreconditionError(name)

    def _equal(self, name: str, size: int, sha256: str, error: Exception) -> str:
        """The etag of what stands under ``name`` if its bytes are those; StoreConflictError otherwise."""
        with self._errors():
            try:
                found = obstore.get(self._store, name)
                etag = _etag(found.meta["e_tag"], found.meta["version"])
                if found.meta["size"] == size:
                    digest = hashlib.sha256()
                    for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                        digest.update(chunk)
                    if digest.hexdigest() == sha256:
                        return etag
            except FileNotFoundError:
                if isinstance(error, FileNotFoundError):
                    raise StoreError(f"{self.url} cannot be written to: {_plain(error)}") from error
                raise StoreConflictError(f"{self.url}/{name} is gone; it was to be replaced", "") from error
        raise StoreConflictError(f"{self.url}/{name}: another object stands there", etag) from error

    def open(self, name: str) -> BinaryIO:
        """See :class:`BlobStore`; a large object is read in ranges as it is asked for."""
        with self._errors():
            found = obstore.get(self._store, checked_name(name))
            size = found.meta["size"]
            if size <= WHOLE_BYTES:
                return io.BytesIO(found.bytes())
        return io.BufferedReader(_Ranges(self, name, size), _RANGE_BYTES)

    def read_range(self, name: str, start: int, length: int) -> memoryview:
        """``length`` bytes of an object from ``start`` on."""
        with self._errors():
            return memoryview(obstore.get_range(self._store, name, start=start, length=length))

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """See :class:`BlobStore`."""
        with self._errors():
            if prefix and not prefix.endswith("/"):
                with contextlib.suppress(FileNotFoundError):
                    yield _blob(obstore.head(self._store, checked_name(prefix)))
                return
            for metas in obstore.list(self._store, checked_name(prefix[:-1]) if prefix else None):
                for meta in metas:
                    yield _blob(meta)

    def remove(self, prefix: str) -> None:
        """See :class:`BlobStore`."""
        if not prefix.endswith("/"):
            self._delete([checked_name(prefix)])
            return
        blobs = self.list(prefix)
        while names := [blob.name for blob in islice(blobs, 1000)]:
            self._delete(names)

    def _delete(self, names: Sequence[str]) -> None:
        with self._errors(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, names)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the service's complaints as StoreError; that something is there, or is not, passes as it is."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except BaseError as exc:
            text = _plain(exc)
            if _FULL.search(text):
                raise StoreFullError(f"no space is left in {self.url}: {text}") from exc
            raise StoreError(f"{self.url} cannot be used: {text}") from exc


class _Ranges(io.RawIOBase):
    """An object as a file, a request for each read."""

    def __init__(self, store: ObjectStore, name: str, size: int) -> None:
        self._store, self._name, self._size = store, name, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readall(self) -> bytes:
        rest = bytearray(self._size - self._position)
        for start in range(0, len(rest), _CHUNK_BYTES):
            self.readinto(memoryview(rest)[start : start + _CHUNK_BYTES])
        return bytes(rest)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # typeshed's Buffer: 3.12 on
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        memoryview(buffer)[:length] = self._store.read_range(self._name, self._position, length)
        self._position += length
        return length


def _blob(meta: ObjectMeta) -> Blob:
    etag = _etag(meta["e_tag"], meta["version"])
    return Blob(meta["path"], meta["size"], etag, meta["last_modified"].timestamp())


def _etag(e_tag: str | None, version: str | None) -> str:
    return f"{e_tag}|{version}" if version else (e_tag or "")


def _plain(error: Exception) -> str:
    """What went wrong, in a line: without what may follow an address's ``?``, for it may hold a signature."""
    text = str(error).partition("Debug source:")[0].strip() or type(error).__name__
    said = " ".join(re.findall(r"<(?:Code|Message)>([^<]*)<", text))
    line = re.sub(r"\?\S+", "", text.splitlines()[0]).partition("<")[0].strip(" :")
    return f"{line[:400]}: {said[:200]}" if said else line[:400]
