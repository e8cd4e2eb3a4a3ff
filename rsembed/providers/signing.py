"""Links of the Planetary Computer: one token per container, shared by all threads and renewed before it ends.

Anonymous: its token service asks for no account (planetarycomputer.microsoft.com/docs/concepts/sas).
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError

PLANETARY_COMPUTER = "planetarycomputer.microsoft.com"
TOKENS = f"https://{PLANETARY_COMPUTER}/api/sas/v1/token"
BLOBS = ".blob.core.windows.net"
RENEW_S = 300.0
"""A token is renewed when it has less than this left; tokens last 45 minutes or more."""
LAST_S = 30.0
"""A token with less than this left is not used: the request it signs would come too late."""
TIMEOUT_S = 30


@dataclass(frozen=True)
class Token:
    """The query that opens a container, and until when (seconds since 1970)."""

    query: str
    until: float


class PlanetaryComputerSigner:
    """Appends to links into Azure's blob storage the token of their container; leaves other links alone.

    ``tokens``: the token service's address. ``now``: the clock.
    """

    def __init__(self, tokens: str = TOKENS, *, hosts: str = BLOBS, now: Callable[[], float] = time.time) -> None:
        self._tokens, self._hosts, self._now = tokens, hosts, now
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], Token] = {}

    def __call__(self, href: str) -> str:
        """``href`` with its container's token. Raises ProviderError and its kin."""
        parts = urlsplit(href)
        container = self._container(href)
        if container is None or "sig=" in parts.query:
            return href
        with self._lock:  # threads that need the same token wait for one answer
            token = self._held.get(container)
            if token is None or token.until - self._now() < RENEW_S:
                token = self._held[container] = self._renewed(container, token)
        return f"{href}{'&' if parts.query else '?'}{token.query}"

    def forget(self, href: str) -> None:
        """The service refused the token of ``href``; the next link gets a new one."""
        container = self._container(href)
        with self._lock:
            if container is not None:
                self._held.pop(container, None)

    def _container(self, href: str) -> tuple[str, str] | None:
        parts = urlsplit(href)
        host, path = parts.netloc, parts.path.strip("/")
        if not host.endswith(self._hosts) or not path:
            return None
        return host.removesuffix(self._hosts), path.split("/", 1)[0]

    def _renewed(self, container: tuple[str, str], old: Token | None) -> Token:
        try:
            return self._ask(*container)
        except TransientProviderError:
            if old is not None and old.until > self._now() + LAST_S:
                return old  # good for a while yet; the next link tries again
            raise

    def _ask(self, account: str, container: str) -> Token:
        address = f"{self._tokens}/{account}/{container}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as reply:  # noqa: S310  # https, or a test's own
                said = json.load(reply)
            until = dt.datetime.fromisoformat(said["msft:expiry"]).timestamp()
            return Token(str(said["token"]), until)
        except urllib.error.HTTPError as exc:
            text = f"{address}: HTTP {exc.code} ({exc.read(200).decode('utf-8', 'replace')})"
            if exc.code == 429:
                raise QuotaError(f"{text}: the token service asks to slow down") from exc
            if exc.code in (401, 403):
                # Its radar collection was given to holders of an account only, at least for a time.
                raise AuthError(f"{text}: {account}/{container} is not open to everybody") from exc
            if exc.code >= 500:
                raise TransientProviderError(f"{text}: the token service does not answer") from exc
            raise ProviderError(f"{text}: no token for the container {container} of {account}") from exc
        except OSError as exc:
            raise TransientProviderError(f"{address}: the token service does not answer ({exc})") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise ProviderError(f"{address} answered with something that is no token ({exc!r})") from exc
