"""Redis by the fleet's URLs, for everything that talks to it without Celery."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rsembed.core.errors import RSEmbedError, SpecError

ERRORS = (redis.RedisError, OSError)
"""What redis-py raises when the broker is away, restarting, out of memory or refuses us."""


class BrokerAwayError(RSEmbedError):
    """The broker does not answer; the same call may succeed later."""

    error_class = "transient"
    transient = True


def connect_redis(url: str, *, timeout_s: float = 5.0) -> redis.Redis:
    """A client for ``redis://``, ``rediss://`` or ``redis+socket:///path`` (``?virtual_host=N`` for database N).

    Nothing is opened before its first command; no command waits longer than ``timeout_s``, and
    none is repeated behind the caller's back. SpecError for another scheme.
    """
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        if not database.isdigit():
            raise SpecError(f"REDIS_URL: virtual_host is {database!r}; it has to be the number of a Redis database")
        url = f"unix://{parts.netloc}{parts.path}?db={database}"
    elif parts.scheme not in {"redis", "rediss"}:
        shown = f"{parts.scheme}://" if parts.scheme else repr(unquote(url)[:12])
        raise SpecError(f"REDIS_URL starts with {shown}; the fleet needs redis://, rediss:// or redis+socket:///path")
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )
    return client
