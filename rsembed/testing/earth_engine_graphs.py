"""The expressions that the Earth Engine provider sends, as files that a person can run against the real service.

``python -m rsembed.testing.earth_engine_graphs`` lists the requests that are kept; with a name it prints the
expression of one (no network is needed), and with ``--run --project PROJECT`` it sends it to Earth Engine and
prints what came back for each band. ``--write FOLDER`` writes all of them anew.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.collections import ALPHAEARTH, collection_info
from rsembed.providers.gee_client import EarthEngineClient, Login
from rsembed.providers.gee_graph import graph_json
from rsembed.providers.gee_plan import plan_graph

S2, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD"
_FIELDS = Grid(32631, 501_000.0, 5_628_600.0, 10.0, 64, 64)  # West Flanders
_MERCATOR = Grid(3857, 335_900.0, 6_581_500.0, 10.0, 64, 64)
_SPRING = Window(dt.date(2018, 4, 1), dt.date(2018, 5, 1))
_SUMMER = Window(dt.date(2018, 6, 1), dt.date(2018, 9, 1))
_YEAR = Window(dt.date(2018, 1, 1), dt.date(2019, 1, 1))


def _at(scale_m: float) -> Grid:
    return Grid(_FIELDS.epsg, 501_000.0, 5_628_600.0, scale_m, 32, 32)


REQUESTS: Mapping[str, FetchRequest] = {
    "s2_median_10m": FetchRequest(FetchRecipe(S2, 10.0), ("B4", "B8", "B11"), _FIELDS, (_SPRING,)),
    "s2_median_30m_two_bins": FetchRequest(FetchRecipe(S2, 30.0), ("B4", "B11"), _at(30.0), (_SPRING, _SUMMER)),
    "s2_mosaic_20m": FetchRequest(FetchRecipe(S2, 20.0, composite="mosaic"), ("B4", "B5"), _at(20.0), (_SUMMER,)),
    "s2_reference_recipe": FetchRequest(
        FetchRecipe(
            S2, 10.0, clouds=CloudPolicy("none", 30.0, None), resampling="nearest", grid="web_mercator",
            frame_date="midpoint",
        ),
        ("B4", "B3", "B2"),
        _MERCATOR,
        (_SUMMER,),
    ),
    "s1_decibel_20m": FetchRequest(FetchRecipe(S1, 20.0, orbit="most_images"), ("VV", "VH"), _at(20.0), (_SUMMER,)),
    "alphaearth_10m": FetchRequest(
        FetchRecipe(ALPHAEARTH, 10.0, composite="mosaic", clouds=CloudPolicy("none", None, None)),
        ("A00", "A63"),
        _FIELDS,
        (_YEAR,),
    ),
    "modis_with_temperature": FetchRequest(
        FetchRecipe(
            "MODIS/061/MOD09GA", 1000.0, composite="mosaic", clouds=CloudPolicy("none", None, None),
            resampling="nearest", grid="web_mercator", frame_date="midpoint",
        ),
        ("sur_refl_b01", "LST_1KM"),
        Grid(3857, 335_000.0, 6_581_000.0, 1000.0, 32, 32),
        (_SPRING,),
    ),
}  # fmt: skip
"""The requests that are kept as files, by their names; between them they use every step there is."""


def response(
    request: requests.PreparedRequest, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> requests.Response:
    """An HTTP answer that no server gave."""
    answer = requests.Response()
    answer.status_code = status
    answer.headers.update({"Content-Type": "application/json", **(headers or {})})
    answer._content = body  # noqa: SLF001 - its only way in
    answer.url, answer.request = str(request.url), request
    return answer


class StartDocuments(requests.adapters.BaseAdapter):
    """Answers what the client asks when it starts, out of the documents that its own package ships."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        name = "cloud_api_discovery_document.json" if "$discovery" in str(request.url) else "algorithms.json"
        text = (files("ee") / "tests" / name).read_text(encoding="utf-8")
        return response(request, 200, text.replace("v1alpha", "v1").encode())

    def close(self) -> None:
        """Nothing is open."""


def offline_login() -> Login:
    """A login that needs no network: expressions can be built, pixels cannot be had."""
    session = requests.Session()
    session.mount("http://", StartDocuments())
    return Login("offline", "http://offline.invalid", anonymous=True, session=session)


def graph_text(request: FetchRequest, login: Login | None = None) -> str:
    """The whole expression of ``request`` as JSON, one shared value a line."""
    EarthEngineClient(login or offline_login()).log_in()
    plan = plan_graph(request, collection_info(request.recipe.collection))
    graph = json.loads(graph_json(request, plan, range(len(request.bins))))
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in graph["values"].items()]
    return f'{{"result": {json.dumps(graph["result"])}, "values": {{\n' + ",\n".join(lines) + "\n}}\n"


def _run(name: str, project: str) -> None:
    client, request = EarthEngineClient(Login(project)), REQUESTS[name]
    client.log_in()
    answer = client.compute_pixels(graph_text(request, Login(project)), request.grid, tag="rsembed-graphs")
    for band in answer.pixels.dtype.names or ():
        values: NDArray[Any] = answer.pixels[band]
        mean = np.mean(values, dtype=float)
        sys.stdout.write(f"{band}: {values.dtype}, {values.min()} .. {values.max()}, mean {mean:g}\n")


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(prog="rsembed.testing.earth_engine_graphs", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(REQUESTS))
    parser.add_argument("--run", action="store_true", help="send it to Earth Engine")
    parser.add_argument("--project", help="the Google Cloud project that computes")
    parser.add_argument("--write", type=Path, help="write all of them into this folder")
    asked = parser.parse_args()
    if asked.write:
        for name, request in REQUESTS.items():
            (asked.write / f"{name}.json").write_text(graph_text(request), encoding="utf-8")
    elif asked.name and asked.run:
        _run(asked.name, asked.project)
    elif asked.name:
        sys.stdout.write(graph_text(REQUESTS[asked.name]))
    else:
        sys.stdout.write("\n".join(REQUESTS) + "\n")


if __name__ == "__main__":
    main()
