"""Flower as a real process, asked by real HTTP requests."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from workers.servers import EmbeddedRedis
from workers.servers.children import wait_until

START = (
    "import sys; from workers.flower import run_flower; from workers.settings import FleetSettings\n"
    "sys.exit(run_flower(FleetSettings.from_environment()))"
)
USER, PASSWORD = "operator", "schön: and long"


def environment(redis_url: str, port: int, user: str, password: str) -> dict[str, str]:
    return {
        **os.environ,
        "REDIS_URL": redis_url,
        "RSEMBED_FLOWER_PORT": str(port),
        "RSEMBED_FLOWER_USER": user,
        "RSEMBED_FLOWER_PASSWORD": password,
        # What opens Flower elsewhere must not open ours.
        "FLOWER_UNAUTHENTICATED_API": "true",
        "FLOWER_BASIC_AUTH": "guest:guest",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("flower") / "redis")
    yield server.start()
    server.remove()


@pytest.fixture(scope="module")
def address(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("flower") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START],
            env=environment(redis_url, port, USER, PASSWORD),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: answers(url), 60.0, every_s=0.2), log.read_text()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()


def answers(url: str) -> bool:
    try:
        return status(f"{url}/healthcheck") == 200
    except urllib.error.URLError:
        return False


def status(
    url: str, *, user: str | None = None, password: str = "", method: str = "GET", data: bytes | None = None
) -> int:
    request = urllib.request.Request(url, method=method, data=data)
    if user is not None:
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


PATHS = (
    "/",
    "/metrics",
    "/metrics/",
    "//metrics",
    "/healthcheck/../metrics",
    "/tasks",
    "/broker",
    "/api/workers",
    "/api/tasks",
    "/static/js/flower.js",
    "/login",
    "/no-such-page",
)


@pytest.mark.parametrize("path", PATHS)
def test_flower_when_asked_without_or_with_a_wrong_password_then_it_refuses(address: str, path: str) -> None:
    assert status(address + path) == 401
    assert status(address + path, user=USER, password="guess") == 401
    assert status(address + path, user="guest", password="guest") == 401


@pytest.mark.parametrize("path", ["/", "/metrics", "/tasks", "/broker", "/api/workers"])
def test_flower_when_asked_with_the_password_then_it_answers(address: str, path: str) -> None:
    assert status(address + path, user=USER, password=PASSWORD) == 200


def test_flower_when_told_to_act_without_the_password_then_it_refuses(address: str) -> None:
    url = f"{address}/api/task/send-task/rsembed.control"
    assert status(url, method="POST", data=b'{"args": []}') == 401


@pytest.mark.parametrize("header", ["Basic", "Basic ???", "Bearer x", "basic " + base64.b64encode(b":").decode()])
def test_flower_when_the_header_is_malformed_then_it_refuses(address: str, header: str) -> None:
    request = urllib.request.Request(f"{address}/metrics", headers={"Authorization": header})
    with pytest.raises(urllib.error.HTTPError, match="401") as caught:
        urllib.request.urlopen(request, timeout=20)
    caught.value.close()


@pytest.mark.parametrize(("user", "password"), [("", ""), ("operator", ""), ("", "secret"), ("a:b", "secret")])
def test_flower_when_it_has_no_proper_login_then_it_does_not_start(redis_url: str, user: str, password: str) -> None:
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-c", START],
        env=environment(redis_url, port, user, password),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "RSEMBED_FLOWER_USER" in done.stderr
