"""Ranges of bytes over HTTP: connections that stay open, errors in classes, every request and byte counted.

GDAL's own transport remembers a failed or cut answer for the life of the process, so that asking
again fails without a request; here a fault is forgotten as soon as it is reported.
"""

from __future__ import annotations

import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError

ATTEMPTS = 3
"""Calls for one range in all; a row with a thousand ranges should not fail as a whole for one of them."""
PAUSE_S = 0.15
WHOLE_FILE = 1 << 25
"""A server that knows no ranges may send a file of up to this many bytes."""
_TOTAL = re.compile(r"/(\d+)$")


class RequestCounter:
    """Counts what was asked of a network for one patch; several threads may add to it."""

    def __init__(self) -> None:
        self.count = 0
        self.received = 0
        self._lock = threading.Lock()

    def add(self, requests: int = 1, received: int = 0) -> None:
        """One more answer: how many requests it took, and its bytes."""
        with self._lock:
            self.count += requests
            self.received += received


class Signer(Protocol):
    """Makes a link readable for a while (services that hand out short-lived tokens)."""

    def __call__(self, href: str) -> str:
        """``href`` with what the service wants to see."""
        ...

    def forget(self, href: str) -> None:
        """The token used for ``href`` was refused; get another next time."""
        ...


@dataclass(frozen=True)
class Piece:
    """Part of a file: its bytes, the length of the whole file (None: not said) and its version (empty: not said)."""

    data: bytes
    total: int | None
    etag: str


class RangeClient:
    """Reads parts of files over HTTP; safe to use from many threads, which share its open connections.

    ``sign``: applied to each link as it is used, so that what is cached is cached under the plain link.
    ``timeout_s``: for a connection, and for each wait for more bytes.
    """

    def __init__(
        self,
        *,
        sign: Callable[[str], str] | None = None,
        timeout_s: float = 60.0,
        connections: int = 64,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._sign = sign
        self._pause_s = pause_s
        self._options: dict[str, object] = {
            "num_pools": 16,
            "maxsize": connections,
            "timeout": urllib3.Timeout(connect=min(10.0, timeout_s), read=timeout_s),
            "retries": urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5),
            "headers": {"User-Agent": "rsembed"},
        }
        self._lock = threading.Lock()
        self._managers: dict[str | None, urllib3.PoolManager] = {}

    def read(self, href: str, start: int, length: int, counter: RequestCounter) -> Piece:
        """``length`` bytes of ``href`` from ``start``; fewer only where the file ends before.

        Transient faults are tried again a moment later, at most ATTEMPTS times in all. Raises
        QuotaError, AuthError, TransientProviderError or, where asking again cannot help, ProviderError.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._ask(href, start, length, counter, first=attempt == 1)
            except QuotaError:
                raise  # everybody has to slow down, which is the throttle's business
            except TransientProviderError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, self._pause_s * 2**attempt))  # noqa: S311  # jitter
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def _ask(self, href: str, start: int, length: int, counter: RequestCounter, *, first: bool) -> Piece:
        link = self._sign(href) if self._sign is not None else href
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        answer: urllib3.BaseHTTPResponse | None = None
        try:
            answer = self._manager(link).request("GET", link, headers=headers, preload_content=False)
            self._examine(href, answer, first=first)
            data = answer.read()
        except (HTTPError, OSError, ProviderError) as exc:
            counter.add()
            if answer is not None:
                answer.close()  # what is left of it must not meet the next request
            if isinstance(exc, ProviderError):
                raise
            if link != href:
                # A signed link is a secret, and the library's own message and trace quote it.
                raise TransientProviderError(f"{href} could not be read: {type(exc).__name__}") from None
            raise TransientProviderError(f"{href} could not be read: {exc}") from exc
        answer.release_conn()
        received = len(data)
        counter.add(1, received)
        return _piece(href, start, length, answer.status, answer.headers, data)

    def _examine(self, href: str, answer: urllib3.BaseHTTPResponse, *, first: bool) -> None:
        """Raise what the status of ``answer`` means, unless it brings bytes."""
        if answer.status not in (200, 206):
            forget = getattr(self._sign, "forget", None)
            if first and forget is not None and answer.status in (401, 403):
                # A token may end before its time; the next attempt brings a new one. Refused again, it is refused.
                forget(href)
                raise TransientProviderError(f"{href}: the signed link was refused, HTTP {answer.status}")
            raise refusal(href, answer.status, answer.read(2000).decode("utf-8", "replace"), answer.headers)
        if answer.status == 200 and int(answer.headers.get("Content-Length") or 0) > WHOLE_FILE:
            raise ProviderError(f"{href}: the server sends whole files only; it has to support byte ranges")

    def _manager(self, href: str) -> urllib3.PoolManager:
        parts = urlsplit(href)
        proxies = urllib.request.getproxies()
        proxy = proxies.get(parts.scheme)
        if proxy is not None and urllib.request.proxy_bypass(parts.hostname or ""):
            proxy = None
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = (
                    urllib3.PoolManager(**self._options)  # type: ignore[arg-type]  # a table of options
                    if proxy is None
                    else urllib3.ProxyManager(proxy, **self._options)  # type: ignore[arg-type]  # as above
                )
            return self._managers[proxy]


def refusal(href: str, status: int, body: str, headers: Mapping[str, str]) -> ProviderError:
    """The error of our own tree for the answer ``status`` of a file server."""
    said = " ".join(re.sub(r"<[^>]*>", " ", body).split())[:200]
    wait = headers.get("Retry-After")
    about = f"{href}: HTTP {status}{f' ({said})' if said else ''}{f', asks to wait {wait} s' if wait else ''}"
    if status == 429 or (status == 503 and re.search("slow ?down|server ?busy", said, re.IGNORECASE)):
        return QuotaError(f"{about}: the server asks to slow down")
    if status == 401:
        return AuthError(f"{about}: the server wants credentials")
    if status == 416:
        return ProviderError(f"{about}: the file is shorter than its own header says; it is damaged")
    if status in (403, 404, 410):
        return ProviderError(f"{about}: it was removed, or is not public")
    if status >= 500 or status in (408, 425):
        return TransientProviderError(f"{about}: the server does not answer")
    return ProviderError(f"{about}: the server refuses")


def _piece(href: str, start: int, length: int, status: int, headers: Mapping[str, str], data: bytes) -> Piece:
    if status == 200:
        total: int | None = len(data)
        data = data[start : start + length]
    else:
        found = _TOTAL.search(headers.get("Content-Range") or "")
        total = int(found.group(1)) if found else None
    # Without the file's length a short answer may be its end; that it is all of the answer was checked already.
    expected = len(data) if total is None else max(0, min(length, total - start))
    if len(data) != expected:
        raise TransientProviderError(
            f"{href}: the answer was cut short: {len(data)} bytes instead of {expected} from {start}"
        )
    return Piece(data, total, headers.get("ETag") or "")
