"""The official Earth Engine client, set up for many small requests: one session a process, no retries of its own.

The client keeps its state in module globals and hides each answer's status and headers. So its one session is
kept here, and it speaks through a transport of ours that sees them.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ee
import ee.deprecation
import google.auth.exceptions
import httplib2
import numpy as np
import requests
from numpy.typing import NDArray

from rsembed.core.errors import AuthError, TransientProviderError
from rsembed.core.fetching import Grid
from rsembed.providers.gee_errors import LOGIN, PROJECT, classify

logger = logging.getLogger(__name__)

HIGH_VOLUME_URL = "https://earthengine-highvolume.googleapis.com"
"""For many requests at a time: developers.google.com/earth-engine/guides/processing_environments."""
CONNECTIONS = 64
"""Kept open to the service; more than the 40 requests at a time that it serves a project."""
CONNECT_S, READ_S = 20.0, 330.0
"""Patience for a connection, and between two bytes of an answer: a computation may take five minutes."""
AUTH_PAUSE_S = 60.0
"""After a refused login nothing is asked for so long: one request finds out again, not every row."""
MAX_HEADER_BYTES = 200_000
"""Of an answer's list of bands, 1024 at most."""
QUOTA_HEADER = "x-earth-engine-quota-status"
_STAND_IN = "@rsembed"
_ENCODED_STAND_IN = json.dumps(ee.serializer.encode(_STAND_IN))
"""What the client makes of it. It cannot be handed an expression that is encoded already, and to encode one
takes longer than all the rest: so it is handed a stand-in, and the transport puts the expression in its place."""
_REQUEST_IDS = ("x-request-id", "x-cloud-trace-context", "x-guploader-uploadid")


@dataclass(frozen=True)
class Answer:
    """One answer: ``pixels`` structured (height, width), a field a band; ``restricted``: the project is slowed down."""

    pixels: NDArray[np.void]
    n_bytes: int
    request_id: str
    restricted: bool


@dataclass
class _Heard:
    """What the last answer of a thread said outside its body."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    n_bytes: int = 0


class _Transport:
    """Sends the client's requests over a pool of connections, with time limits; safe for many threads."""

    def __init__(self, session: requests.Session | None, read_s: float) -> None:
        self._read_s = read_s
        self._session = session or _pooled_session()
        self._local = threading.local()

    @property
    def heard(self) -> _Heard:
        """What this thread was last told."""
        heard: _Heard | None = getattr(self._local, "heard", None)
        if heard is None:
            heard = self._local.heard = _Heard()
        return heard

    def expect(self, expression: str) -> None:
        """Before a request of this thread: what belongs in the place of the stand-in; nothing has been heard."""
        self._local.heard, self._local.expression = _Heard(), expression

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        redirections: int | None = None,
        connection_type: Any = None,
    ) -> tuple[httplib2.Response, bytes]:
        """As ``httplib2.Http.request``; raises ConnectionError or TimeoutError."""
        del redirections, connection_type
        expression: str | None = getattr(self._local, "expression", None)
        if expression is not None and isinstance(body, str) and _ENCODED_STAND_IN in body:
            body = body.replace(_ENCODED_STAND_IN, expression, 1).encode()
        try:
            answer = self._session.request(method, uri, data=body, headers=headers, timeout=(CONNECT_S, self._read_s))
        except requests.exceptions.Timeout as exc:
            raise TimeoutError(str(exc)) from exc
        except requests.exceptions.RequestException as exc:
            raise ConnectionError(str(exc)) from exc
        told = {name.lower(): value for name, value in answer.headers.items()}
        self._local.heard = _Heard(answer.status_code, told, len(answer.content))
        # Of a slowed-down project the client makes a warning that reaches nobody; we tell the throttle.
        shown = {name: value for name, value in told.items() if name != QUOTA_HEADER}
        return httplib2.Response({**shown, "status": str(answer.status_code)}), answer.content

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _pooled_session() -> requests.Session:
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


@dataclass(frozen=True)
class Login:
    """Whom to ask and as whom. ``url`` None: the high-volume endpoint; ``credentials`` None: the client's own.

    ``anonymous``: no credentials at all, for a server that asks for none. ``session``: carries the requests
    in the place of one of our own.
    """

    project: str | None = None
    url: str | None = None
    credentials: Any = None
    anonymous: bool = False
    session: requests.Session | None = None
    read_s: float = READ_S


class _Process:
    """The one Earth Engine session of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.login: Login | None = None
        self.pid = 0
        self.transport: _Transport | None = None


_process = _Process()
# A lock that another thread held at the fork would stay locked in the child for ever.
os.register_at_fork(after_in_child=lambda: setattr(_process, "lock", threading.Lock()))


class EarthEngineClient:
    """Asks Earth Engine for pixels. Logs in on first use; a process serves one login at a time."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._refused: tuple[AuthError, float] | None = None

    def log_in(self) -> None:
        """Log in, where that has not been done: the client knows its functions only then."""
        self._ready()

    def compute_pixels(self, expression: str, grid: Grid, *, tag: str | None = None) -> Answer:
        """The image ``expression`` (JSON) on ``grid`` in one request; ``tag`` marks its cost in the cloud's metrics.

        Raises what ``core/errors.py`` has for a provider.
        """
        transport = self._ready()
        a, b, c, d, e, f = grid.transform
        affine = {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f}
        body: dict[str, Any] = {
            "expression": _STAND_IN,
            "fileFormat": "NPY",
            "grid": {
                "dimensions": {"width": grid.width, "height": grid.height},
                "affineTransform": affine,
                "crsCode": f"EPSG:{grid.epsg}",
            },
        }
        if tag:
            body["workloadTag"] = tag
        transport.expect(expression)
        with self._translated(transport):
            content: bytes = ee.data.computePixels(body)
            # Read here: the client's own reader takes headers of some 400 bands at most.
            pixels: NDArray[np.void] = np.load(io.BytesIO(content), max_header_size=MAX_HEADER_BYTES)
        heard = transport.heard
        identity = next((heard.headers[name] for name in _REQUEST_IDS if name in heard.headers), "")
        restricted = "parallelism_restricted=true" in heard.headers.get(QUOTA_HEADER, "")
        return Answer(pixels, heard.n_bytes, identity, restricted)

    def _ready(self) -> _Transport:
        refused = self._refused
        if refused is not None and time.monotonic() < refused[1]:
            raise AuthError(str(refused[0]))
        with _process.lock:
            transport = _process.transport
            if transport is None or _process.login != self._login or _process.pid != os.getpid():
                transport = self._log_in()
        return transport

    def _log_in(self) -> _Transport:
        """Point the client at the service; a parent's connections are never used after a fork."""
        login = self._login
        if _process.transport is not None and _process.pid == os.getpid():
            _process.transport.close()
        _process.transport = None
        ee.Reset()
        ee.data.setMaxRetries(0)
        # At each start the client asks another host for its list of old data sets, without a time limit.
        ee.deprecation._FetchDataCatalogStac = dict  # noqa: SLF001 - there is no public switch
        transport = _Transport(login.session, login.read_s)
        credentials = None if login.anonymous else login.credentials or "persistent"
        with self._translated(transport):
            ee.Initialize(
                credentials, url=login.url or HIGH_VOLUME_URL, project=login.project, http_transport=transport
            )
        _process.login, _process.pid, _process.transport = login, os.getpid(), transport
        return transport

    @contextlib.contextmanager
    def _translated(self, transport: _Transport) -> Iterator[None]:
        try:
            yield
        except AuthError:
            raise
        except google.auth.exceptions.TransportError as exc:
            raise TransientProviderError(f"the login to Earth Engine could not be checked: {exc}") from exc
        except google.auth.exceptions.GoogleAuthError as exc:
            raise self._refuse(AuthError(f"Earth Engine refused the login: {exc}. To log in, {LOGIN}")) from exc
        except ee.EEException as exc:
            status = transport.heard.status
            if "no project found" in str(exc):
                raise self._refuse(AuthError(f"no project is set. {PROJECT}")) from exc
            error = classify(str(exc), status if status != 200 else None)
            if isinstance(error, AuthError):
                self._refuse(error)
            raise error from exc
        except (ConnectionError, TimeoutError) as exc:
            raise TransientProviderError(f"Earth Engine did not answer: {exc}") from exc
        except (ValueError, EOFError) as exc:  # numpy cannot read the body: it was cut short
            raise TransientProviderError(f"Earth Engine's answer cannot be read: {exc}") from exc

    def _refuse(self, error: AuthError) -> AuthError:
        self._refused = (error, time.monotonic() + AUTH_PAUSE_S)
        logger.error("earth_engine_login_refused", extra={"error": str(error), "pause_s": AUTH_PAUSE_S})
        return error
