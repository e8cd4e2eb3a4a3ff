"""Flower, never without a password.

Flower itself leaves ``/metrics`` open even under basic authentication; here every request is
checked before Flower sees it. Only ``/healthcheck`` answers strangers, with two letters. Flower's own
files and ``FLOWER_…`` variables are not read: none of them can open it.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import secrets
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from flower.app import Flower
from flower.options import default_options
from flower.urls import settings as flower_settings
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.web import RequestHandler

from rsembed.core.errors import SpecError
from workers.app import make_app
from workers.queues import CONTROL, CPU, IO
from workers.settings import FleetSettings

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthcheck"})
MAX_TASKS = 20_000  # in memory; about 100 MB
FORGET_WORKERS_S = 3600
COLUMNS = "name,kwargs,state,received,started,runtime,worker"


class Refusal(RequestHandler):
    """Asks for user and password, whatever was asked of it."""

    def prepare(self) -> None:
        """Answer every method alike, before anything of the request is looked at."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="rsembed", charset="UTF-8"')
        self.finish("Access denied\n")

    def check_xsrf_cookie(self) -> None:
        """Refused anyway."""


class GuardedFlower(Flower):  # type: ignore[misc]  # Flower has no types
    """Flower behind one door: no handler of its runs without the right ``Authorization`` header.

    Flower's own check stays on behind it, with a credential that only this process knows: it
    would fail on passwords that are not plain ASCII.
    """

    def __init__(self, user: str, password: str, *, inner: str, **options: Any) -> None:
        super().__init__(**options)
        self._expected = f"{user}:{password}".encode()
        self._inner = "Basic " + base64.b64encode(inner.encode()).decode("ascii")

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate:
        """The handler of a request (tornado's hook), or a refusal."""
        handler: HTTPMessageDelegate
        if self._may_enter(request.headers.get("Authorization", "")):
            request.headers["Authorization"] = self._inner
            handler = super().find_handler(request, **kwargs)
        elif request.path in OPEN_PATHS:
            handler = super().find_handler(request, **kwargs)
        else:
            handler = self.get_handler_delegate(request, Refusal)
        return handler

    def _may_enter(self, header: str) -> bool:
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(value, validate=True)
        except ValueError:
            return False
        return hmac.compare_digest(given, self._expected)


def make_flower(settings: FleetSettings) -> GuardedFlower:
    """Flower on the fleet's broker, not yet listening; SpecError without user and password."""
    user, password = settings.flower_user, settings.flower_password
    if not user or not password:
        raise SpecError(
            "Flower shows and steers the whole fleet, so it does not start without a user and a password: "
            "set RSEMBED_FLOWER_USER and RSEMBED_FLOWER_PASSWORD."
        )
    if ":" in user:
        raise SpecError("RSEMBED_FLOWER_USER must not contain a colon: basic authentication cannot carry one.")
    inner = f"rsembed:{secrets.token_urlsafe(32)}"
    values = {
        "address": settings.flower_host,
        "port": settings.flower_port,
        "basic_auth": [inner],
        "max_tasks": MAX_TASKS,
        "purge_offline_workers": FORGET_WORKERS_S,
        "tasks_columns": COLUMNS,
        "persistent": False,
        "natural_time": False,
        "debug": False,
        "url_prefix": "",
    }
    for name, value in values.items():
        setattr(default_options, name, value)
    app = make_app(settings.need_redis_url(), (IO, CPU, CONTROL))
    return GuardedFlower(user, password, inner=inner, capp=app, options=default_options, **flower_settings)


def run_flower(settings: FleetSettings) -> int:
    """Serve Flower until SIGTERM or Ctrl-C; the exit code."""
    flower = make_flower(settings)
    logging.getLogger("tornado.access").setLevel(logging.WARNING)  # refusals, not every picture of a page
    port = flower.start_http_server()
    logger.info("flower_listens", extra={"host": settings.flower_host, "port": port})
    with _stopping(flower):
        flower.start()
    return 0


@contextlib.contextmanager
def _stopping(flower: GuardedFlower) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        logger.info("stopping", extra={"signal": number})
        flower.io_loop.add_callback_from_signal(flower.stop)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
