"""The expressions that are sent are the ones kept as files, which a person can run against the real service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ee")

import ee

from rsembed.providers.collections import collection_info
from rsembed.providers.gee_client import EarthEngineClient
from rsembed.providers.gee_graph import build_graph, graph_json
from rsembed.providers.gee_plan import plan_graph
from rsembed.testing.earth_engine_graphs import REQUESTS, graph_text, offline_login

OFFLINE = offline_login()
GRAPHS = Path(__file__).parent / "graphs"


@pytest.mark.parametrize("name", REQUESTS)
def test_graph_when_built_then_it_is_the_one_kept(name: str) -> None:
    kept = (GRAPHS / f"{name}.json").read_text(encoding="utf-8")
    assert graph_text(REQUESTS[name], OFFLINE) == kept, (
        "the expressions changed: look at them, then "
        "python -m rsembed.testing.earth_engine_graphs --write tests/unit/providers/graphs"
    )


def test_graph_when_kept_then_valid_and_each_has_its_request() -> None:
    assert {path.stem for path in GRAPHS.glob("*.json")} == set(REQUESTS)
    for path in GRAPHS.glob("*.json"):
        graph = json.loads(path.read_text(encoding="utf-8"))
        assert graph["result"] in graph["values"]


def test_graph_when_there_are_twelve_bins_then_far_below_what_the_service_takes() -> None:
    request = REQUESTS["s2_median_30m_two_bins"]
    twelve = replace(request, bins=tuple(request.bins[0] for _ in range(12)))
    assert len(graph_text(twelve, OFFLINE)) < 1_000_000


@pytest.mark.parametrize("name", REQUESTS)
def test_graph_json_when_made_from_a_template_then_what_the_client_would_send(name: str) -> None:
    EarthEngineClient(OFFLINE).log_in()
    request = REQUESTS[name]
    for moved in (request, replace(request, grid=replace(request.grid, x_min=request.grid.x_min + 1200.0))):
        plan = plan_graph(moved, collection_info(moved.recipe.collection))
        whole = range(len(moved.bins))
        assert json.loads(graph_json(moved, plan, whole)) == ee.serializer.encode(build_graph(moved, plan, whole))
