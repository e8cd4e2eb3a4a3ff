"""Files behind plain URLs: fetched once, by one process at a time, whole or not at all.

(The model hub's client has locks of its own: processes that ask it for one file wait for each other, too.)
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rsembed.core.errors import WeightsError, WeightsUnreachableError

logger = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TIMEOUT_S = 60.0


def fetch_once(url: str, target: Path, *, sha256: str | None, explain: Callable[[str], str]) -> bool:
    """Make sure that ``target`` holds what lies at ``url``; False when another process has brought it meanwhile.

    ``sha256``: what it must be, if known. ``explain(reason)``: the message of an error. A process that dies
    leaves nothing under ``target``, and the next one in the queue fetches. Raises WeightsUnreachableError when
    the server did not answer or broke off, WeightsError for everything that would happen again.
    """
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"{url!r} is no http(s) address")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _turn(target):
            if target.is_file():
                return False
            _download(url, target, sha256, explain)
    except urllib.error.HTTPError as exc:
        exc.close()  # it holds the connection
        kind = WeightsUnreachableError if exc.code >= 500 or exc.code == 429 else WeightsError
        raise kind(explain(f"the server says {exc.code} {exc.reason}")) from exc
    except OSError as exc:
        raise WeightsUnreachableError(explain(f"the download broke off: {exc}")) from exc
    return True


@contextmanager
def _turn(target: Path) -> Iterator[None]:
    """Wait until no other process fetches ``target``. The system gives the lock back when a process dies."""
    with target.with_name(f".{target.name}.lock").open("a") as handle:  # never removed: that would be a race
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("download_awaited", extra={"file": str(target)})
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(url: str, target: Path, sha256: str | None, explain: Callable[[str], str]) -> None:
    """Temporary file, checks, then one atomic rename."""
    digest = hashlib.sha256()
    prefix = f".{target.name}.part-"
    for left in [path for path in target.parent.iterdir() if path.name.startswith(prefix)]:
        left.unlink()  # of a process that was killed: it is our turn, so nobody else writes
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=prefix, delete=False) as part:
        temporary = Path(part.name)
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - http(s) only, see above
                if answer.headers.get_content_type() == "text/html":
                    # A file host's page about a quota or a warning, with status 200.
                    raise WeightsError(explain("the server sent a web page instead"))
                expected = answer.headers.get("Content-Length")
                while chunk := answer.read(_CHUNK):
                    digest.update(chunk)
                    part.write(chunk)
            part.flush()
            os.fsync(part.fileno())
            size = temporary.stat().st_size
            if expected is not None and size != int(expected):
                raise WeightsUnreachableError(f"{url} ended after {size} of {expected} bytes; pull again")
            if sha256 is not None and digest.hexdigest() != sha256:
                raise WeightsError(
                    f"{url} gave another file: sha256 {digest.hexdigest()}, expected {sha256}; it was not kept"
                )
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
