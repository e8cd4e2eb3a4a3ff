"""The session with Earth Engine: what it sends and how it takes refusals. The service is an adapter, not a server."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ee")

import requests

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TooComplexError, TransientProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.collections import collection_info
from rsembed.providers.gee import GeeProvider
from rsembed.providers.gee_client import HIGH_VOLUME_URL
from rsembed.providers.gee_plan import plan_graph
from rsembed.testing.earth_engine_graphs import StartDocuments, response

GRID = Grid(32631, 480_000.0, 4_700_000.0, 10.0, 64, 48)
JUNE = Window(dt.date(2022, 6, 1), dt.date(2022, 7, 1))
REQUEST = FetchRequest(FetchRecipe("COPERNICUS/S2_SR_HARMONIZED", 10.0), ("B4", "B8"), GRID, (JUNE,))


@dataclass
class Refusal:
    """An answer that is none."""

    status: int
    message: str = ""
    body: bytes | None = None


@dataclass
class Service(StartDocuments):
    """Earth Engine as an adapter: first the ``script``, then pixels of value 5, one image a pixel."""

    script: list[Refusal | BaseException] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        with self.lock:
            self.urls.append(str(request.url))
        if "computePixels" not in str(request.url):
            return super().send(request, *args, **kwargs)
        body = json.loads(request.body or "{}")
        with self.lock:
            self.bodies.append(body)
            step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            error = {"error": {"code": step.status, "message": step.message, "status": "X"}}
            return response(request, step.status, step.body or json.dumps(error).encode(), self.headers)
        size = body["grid"]["dimensions"]
        bands = plan_graph(REQUEST, collection_info(REQUEST.recipe.collection)).layout.bands(range(1))
        pixels = np.zeros((size["height"], size["width"]), dtype=bands)
        for name in ("t000_B4", "t000_B8"):
            pixels[name] = 5
        pixels["t000_n"], pixels["t000_days00"] = 1, 1 << 14
        file = io.BytesIO()
        np.save(file, pixels)
        return response(request, 200, file.getvalue(), {"x-request-id": "abc", **self.headers})


SERVICE = Service()
SESSION = requests.Session()
SESSION.mount("http://", SERVICE)


def serving(*script: Refusal | BaseException, headers: Mapping[str, str] | None = None) -> Service:
    """The service, from now on answering ``script`` first. One for all tests, so that there is one login."""
    SERVICE.script, SERVICE.headers, SERVICE.bodies, SERVICE.urls = list(script), headers or {}, [], []
    return SERVICE


def provider(**options: Any) -> GeeProvider:
    return GeeProvider("local-test", "http://earth-engine.invalid", session=SESSION, **options)


def test_fetch_when_served_then_one_request_and_a_patch_with_its_story() -> None:
    service = serving()
    patch = provider().fetch(REQUEST)
    assert len(service.bodies) == 1
    assert (patch.values_tchw == 5).all()
    assert patch.valid_tchw.all()
    assert patch.frames[0].date == dt.date(2022, 6, 15)
    story = patch.provenance
    assert (story["requests"], story["request_ids"], story["images"]) == (1, ["abc"], [1])
    assert (story["collection"], story["window"]) == ("COPERNICUS/S2_SR_HARMONIZED", "2022-06-01..2022-07-01")
    assert story["bytes"] > 64 * 48 * 8  # type: ignore[operator]  # JSON


def test_fetch_when_asked_then_the_grid_and_the_tag_are_in_the_body_and_nothing_else_is_asked() -> None:
    service = serving()
    provider(workload_tag="Run 12/ä").fetch(REQUEST)
    [body] = service.bodies
    assert body["workloadTag"] == "run-12"
    assert body["fileFormat"] == "NPY"
    assert body["grid"]["crsCode"] == "EPSG:32631"
    assert body["grid"]["affineTransform"]["translateY"] == 4_700_000.0
    assert not any("value:compute" in url for url in service.urls)


def test_fetch_when_the_project_is_restricted_then_the_patch_says_so() -> None:
    serving(headers={"x-earth-engine-quota-status": "foo; parallelism_restricted=true"})
    assert provider().fetch(REQUEST).provenance["restricted"] is True
    serving()
    assert provider().fetch(REQUEST).provenance["restricted"] is False


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Refusal(429, "Too Many Requests"), QuotaError),
        (Refusal(503, "Service unavailable"), TransientProviderError),
        (Refusal(502, body=b"<html>a proxy's page</html>"), TransientProviderError),
        (Refusal(404, "ImageCollection asset 'X' not found"), ProviderError),
        (Refusal(200, body=b"\x93NUMPY cut short"), TransientProviderError),
        (requests.exceptions.ConnectionError("reset"), TransientProviderError),
        (requests.exceptions.ReadTimeout("silent"), TransientProviderError),
    ],
)
def test_fetch_when_refused_then_classed_at_once_without_hidden_retries(
    refusal: Refusal | BaseException, expected: type[ProviderError]
) -> None:
    service = serving(refusal)
    source = provider()
    with pytest.raises(ProviderError) as caught:
        source.fetch(REQUEST)
    assert type(caught.value) is expected
    assert len(service.bodies) == 1
    assert source.fetch(REQUEST).valid_tchw.all()


def test_fetch_when_too_complex_then_halved_and_put_together() -> None:
    service = serving(*[Refusal(400, "User memory limit exceeded.")] * 2)
    patch = provider().fetch(REQUEST)
    assert patch.valid_tchw.all()
    sizes = [(b["grid"]["dimensions"]["height"], b["grid"]["dimensions"]["width"]) for b in service.bodies]
    assert sizes == [(64, 48), (32, 48), (32, 24), (32, 24), (32, 48)]
    assert patch.provenance["requests"] == 5


def test_fetch_when_its_kind_was_too_complex_before_then_begun_with_smaller_pieces() -> None:
    service, source = serving(Refusal(400, "User memory limit exceeded.")), provider()
    source.fetch(REQUEST)
    assert len(service.bodies) == 3
    assert source.fetch(REQUEST).provenance["requests"] == 2


def test_fetch_when_too_complex_to_the_end_then_says_what_to_do() -> None:
    service = serving(*[Refusal(400, "Computation timed out.")] * 99)
    with pytest.raises(TooComplexError, match=r"even for 16 x 24 pixels of one bin; ask for a shorter window"):
        provider().fetch(REQUEST)
    assert len(service.bodies) == 4


def test_fetch_when_the_login_has_expired_then_one_request_finds_out_and_the_rest_wait() -> None:
    service = serving(Refusal(401, "Request had invalid authentication credentials."))
    source = provider()
    for _ in range(5):
        with pytest.raises(AuthError, match="earthengine authenticate"):
            source.fetch(REQUEST)
    assert len(service.bodies) == 1


def test_fetch_when_many_threads_ask_then_each_gets_its_own_answer() -> None:
    service = serving()
    source = provider()
    with ThreadPoolExecutor(16) as threads:
        patches = list(threads.map(source.fetch, [REQUEST] * 20))
    assert len(service.bodies) == 20
    assert all(patch.valid_tchw.all() for patch in patches)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fetch_when_the_process_has_forked_then_the_child_logs_in_anew() -> None:
    # In a process of its own: this one has threads by now.
    script = f"""
import os, sys, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_gee_client as t
service, source = t.serving(), t.provider()
source.fetch(t.REQUEST)
asked = len(service.urls)
if os.fork() == 0:
    source.fetch(t.REQUEST)
    fresh = [url for url in service.urls[asked:] if "discovery" in url]
    os._exit(0 if fresh else 3)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()


def test_check_when_the_collection_or_band_is_unknown_then_names_those_there_are() -> None:
    source = GeeProvider("p")
    source.check(REQUEST.recipe, ("B4", "nir"))
    with pytest.raises(ProviderError, match=r"no band B77; it has B1, B2"):
        source.check(REQUEST.recipe, ("B4", "B77"))
    with pytest.raises(ProviderError, match=r"does not know sentinel-2-l2a; it knows COPERNICUS/S2_SR_HARMONIZED"):
        source.check(FetchRecipe("sentinel-2-l2a", 10.0), ("B4",))


def test_describe_when_asked_then_project_and_address_and_no_client() -> None:
    assert GeeProvider("p").describe() == {"backend": "gee", "project": "p", "url": None}
    code = "import sys; from rsembed.providers import gee; gee.GeeProvider().describe(); sys.exit('ee' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_high_volume_url_when_none_is_given_then_it_is_the_default() -> None:
    from ee import data

    assert HIGH_VOLUME_URL == data.HIGH_VOLUME_API_BASE_URL
