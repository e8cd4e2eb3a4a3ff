from __future__ import annotations

import pytest

from rsembed.core.errors import SpecError
from workers.broker import connect_redis


def arguments(url: str) -> dict[str, object]:
    return connect_redis(url).connection_pool.connection_kwargs


def test_connect_redis_when_given_a_socket_then_path_and_database_are_taken() -> None:
    found = arguments("redis+socket:///run/fleet/redis.sock?virtual_host=2")
    assert (found["path"], found["db"]) == ("/run/fleet/redis.sock", 2)


def test_connect_redis_when_given_a_host_then_password_and_database_are_taken() -> None:
    found = arguments("redis://:secret@broker:6380/3")
    assert (found["host"], found["port"], found["password"], found["db"]) == ("broker", 6380, "secret", 3)


@pytest.mark.parametrize("url", ["amqp://guest@host//", "secret-without-scheme", "redis+socket:///x?virtual_host=a"])
def test_connect_redis_when_the_url_is_no_redis_then_it_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(SpecError, match="REDIS_URL") as refused:
        connect_redis(url)
    assert "guest" not in str(refused.value)
    assert "without-scheme" not in str(refused.value)
