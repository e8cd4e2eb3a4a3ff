"""Published files, fetched once: resumed where they broke off, checked, and put in place whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from rsembed.core.errors import ProviderError, StoreError, StoreFullError, TransientProviderError
from rsembed.providers.transport import RequestCounter, refusal

logger = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TOTAL = re.compile(r"/(\d+)$")
_CONTENT_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
"""Object stores give this as the ETag of a file that was uploaded in one piece."""


class MissingFileError(ProviderError):
    """The server has no such file (404, 410)."""


@dataclass(frozen=True)
class Wanted:
    """A file that is wanted: where it lies, and what is known of it. ``at_least``: bytes it surely has."""

    url: str
    sha256: str | None = None
    size: int | None = None
    at_least: int = 0


@dataclass(frozen=True)
class _Begun:
    """A download that broke off: its bytes so far, and the version they are of."""

    part: Path

    @property
    def _note(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def etag(self) -> str:
        try:
            return str(json.loads(self._note.read_text())["etag"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, etag: str) -> None:
        self.part.write_bytes(b"")
        self._note.write_text(json.dumps({"etag": etag}))

    def forget(self) -> None:
        for path in (self.part, self._note):
            path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        with self.part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.part, target)
        self._note.unlink(missing_ok=True)


class Downloader:
    """Fetches files by HTTP, many threads and processes at once; of those that want one file the others wait.

    ``attempts``: calls for one file before its download is given up for now; what has come stays.
    ``offline``: nothing may be fetched. ``pause_s``: about how long to wait before the second attempt.
    """

    def __init__(self, *, offline: bool = False, attempts: int = 5, pause_s: float = 0.5) -> None:
        self._offline = offline
        self._attempts = attempts
        self._pause_s = pause_s
        self._pool = urllib3.PoolManager(
            maxsize=32,
            timeout=urllib3.Timeout(connect=15.0, read=60.0),
            retries=urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5),
            # Some content networks refuse clients that do not say who they are.
            headers={"User-Agent": "rsembed", "Accept-Encoding": "identity"},
        )

    def fetch(self, wanted: Wanted, target: Path, counter: RequestCounter) -> Path:
        """``target``, which holds ``wanted``; what is there already is not looked at.

        Raises MissingFileError, TransientProviderError, QuotaError or AuthError for the server, ProviderError for a
        file that is not the one, StoreError for the folder.
        """
        if target.is_file():
            return target
        if self._offline:
            raise ProviderError(f"{target} is not there, and nothing is downloaded while RSEMBED_OFFLINE is set")
        with _folder_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _turn(target):
                if not target.is_file():
                    self._download(wanted, target, counter)
        return target

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _download(self, wanted: Wanted, target: Path, counter: RequestCounter) -> None:
        begun = _Begun(target.with_name(f".{target.name}.part"))
        resumed = begun.size() > 0
        self._complete(wanted, begun, counter)
        reason = _wrong(wanted, begun)
        if reason and resumed:
            # The first part may have been of an older version.
            logger.info("download_restarted", extra={"url": wanted.url, "reason": reason})
            begun.forget()
            self._complete(wanted, begun, counter)
            reason = _wrong(wanted, begun)
        if reason:
            begun.forget()
            raise ProviderError(f"{wanted.url} gave another file than was published: {reason}; it was not kept")
        begun.finish(target)
        logger.info("downloaded", extra={"url": wanted.url, "file": str(target)})

    def _complete(self, wanted: Wanted, begun: _Begun, counter: RequestCounter) -> None:
        """Ask for what is lacking until nothing is."""
        for attempt in range(1, self._attempts + 1):
            try:
                self._ask(wanted, begun, counter)
            except TransientProviderError:
                if attempt == self._attempts:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * self._pause_s * 2 ** (attempt - 1))  # noqa: S311  # jitter
            else:
                return

    def _ask(self, wanted: Wanted, begun: _Begun, counter: RequestCounter) -> None:
        """One request for the whole file, or for the rest of it."""
        have, etag = begun.size(), begun.etag()
        headers: dict[str, str] = {}
        # The rest of a file only fits its beginning where something tells that they are of one version.
        if have and (etag or wanted.sha256):
            headers["Range"] = f"bytes={have}-"
            if etag:
                headers["If-Range"] = etag
        counter.add()
        try:
            answer = self._pool.request("GET", wanted.url, headers=headers, preload_content=False, redirect=True)
        except HTTPError as exc:
            raise TransientProviderError(f"{wanted.url} cannot be reached: {exc}") from exc
        try:
            if answer.status == 416:
                begun.forget()
                raise TransientProviderError(f"{wanted.url}: the file is shorter than what had come; it begins anew")
            if answer.status not in (200, 206):
                _refuse(wanted.url, answer)
            if (answer.headers.get("Content-Type") or "").startswith("text/html"):
                raise ProviderError(f"{wanted.url}: the server sent a web page in the place of the file")
            if answer.status == 200:
                begun.begin(_strong(answer.headers.get("ETag")))
                have = 0
            _append(wanted.url, answer, begun.part, have, counter)
        finally:
            answer.close()


def _refuse(url: str, answer: BaseHTTPResponse) -> None:
    body = answer.read(2048).decode("utf-8", "replace")
    error = refusal(url, answer.status, body, answer.headers)
    if answer.status in (404, 410):
        raise MissingFileError(str(error))
    raise error


def _append(url: str, answer: BaseHTTPResponse, part: Path, have: int, counter: RequestCounter) -> None:
    expected = _expected(answer, have)
    try:
        with part.open("ab") as stream:
            for chunk in answer.stream(_CHUNK, decode_content=False):
                stream.write(chunk)
                have += len(chunk)
                counter.add(0, len(chunk))
    except HTTPError as exc:
        raise TransientProviderError(f"{url} broke off after {have} bytes: {exc}") from exc
    if expected is not None and have < expected:
        raise TransientProviderError(f"{url} ended after {have} of {expected} bytes")


def _expected(answer: BaseHTTPResponse, have: int) -> int | None:
    """Bytes of the whole file."""
    total = _TOTAL.search(answer.headers.get("Content-Range") or "")
    if total:
        return int(total.group(1))
    length = answer.headers.get("Content-Length")
    return None if length is None else have + int(length)


def _strong(etag: str | None) -> str:
    return "" if etag is None or etag.startswith("W/") else etag


def _wrong(wanted: Wanted, begun: _Begun) -> str | None:
    """Why what has come is not the wanted file."""
    size = begun.size()
    if wanted.size is not None and size != wanted.size:
        return f"{size} bytes instead of {wanted.size}"
    if size < wanted.at_least:
        return f"{size} bytes, at least {wanted.at_least} expected"
    md5 = _CONTENT_MD5.fullmatch(begun.etag())
    sums: list[tuple[str, Callable[[], hashlib._Hash], str]] = []
    if wanted.sha256:
        sums.append(("sha256", hashlib.sha256, wanted.sha256.lower()))
    elif md5:
        sums.append(("md5", lambda: hashlib.md5(usedforsecurity=False), md5.group(1)))
    for name, kind, expected in sums:
        with begun.part.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if found != expected:
            return f"{name} {found}, expected {expected}"
    return None


@contextmanager
def _turn(target: Path) -> Iterator[None]:
    """Wait until nobody else fetches ``target``; the system gives the lock back when a process dies."""
    with target.with_name(f".{target.name}.lock").open("a") as handle:  # never removed: that would be a race
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _folder_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (HTTPError, TimeoutError, ConnectionError) as exc:
        raise TransientProviderError(f"{target.name}: the connection was lost: {exc}") from exc
    except OSError as exc:
        kind = StoreFullError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(f"{target} cannot be written: {exc}") from exc
