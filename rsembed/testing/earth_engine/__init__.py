"""A local Earth Engine for the official client: it evaluates what the client sends, and fails on demand.

For tests and benchmarks that must run without an account or a network. It is not Earth Engine: it follows the
service's documentation, cited where each rule is used, over rasters of a static STAC catalogue or in memory, and
refuses (400) what it does not model.

    with LocalEarthEngine(catalog="scenes/catalog.json") as server:
        ee.Initialize(credentials=None, url=server.url, project="any")

``python -m rsembed.testing.earth_engine --help`` runs it for other processes.
"""

from __future__ import annotations

from rsembed.testing.earth_engine.behaviour import Behaviour, Counters, Fault, Latency, RequestRecord
from rsembed.testing.earth_engine.collections import SyntheticBand, SyntheticImage
from rsembed.testing.earth_engine.server import LocalEarthEngine

__all__ = [
    "Behaviour",
    "Counters",
    "Fault",
    "Latency",
    "LocalEarthEngine",
    "RequestRecord",
    "SyntheticBand",
    "SyntheticImage",
]
