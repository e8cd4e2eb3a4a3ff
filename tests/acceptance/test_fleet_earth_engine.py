"""A fleet whose IO workers ask Earth Engine: the official client in real workers, against the local server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ee")

from rsembed.testing.earth_engine import Fault, LocalEarthEngine
from rsembed.testing.scene import write_synthetic_catalog
from rsembed.tools.spatial import to_lonlat
from tests.acceptance.fleet_parts import Trial, rsembed, surroundings
from tests.builders import files
from workers.testing import FleetUnderTest

N_ROWS = 12
WORDS = ("--model", "mosaiks", "--backend", "gee", "--year", "2022", "--buffer", "160", "--context", "none")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEarthEngine]:
    with LocalEarthEngine(catalog=write_synthetic_catalog(tmp_path_factory.mktemp("scenes"), size_px=256)) as found:
        yield found


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, server: LocalEarthEngine) -> Iterator[Trial]:
    """A fleet whose Earth Engine is ``server``."""
    home = tmp_path_factory.mktemp("fleet")
    environ = {"RSEMBED_EE_URL": server.url, "RSEMBED_EE_PROJECT": "local-test"}
    fleet = FleetUnderTest(home, surroundings(home, **environ), io=1, cpu=1)
    try:
        fleet.start()
        yield Trial(fleet)
    finally:
        fleet.stop()


def places(path: Path) -> Path:
    """Rows within the synthetic scene."""
    lon, lat = to_lonlat(32631, np.linspace(481_000.0, 481_600.0, N_ROWS), np.full(N_ROWS, 4_698_700.0))
    pq.write_table(pa.table({"id": [f"p{i}" for i in range(N_ROWS)], "lon": lon, "lat": lat}), path)
    return path


def test_run_when_earth_engine_refuses_some_then_each_row_is_had_once_under_the_run_s_tag(
    asking: Trial, server: LocalEarthEngine, tmp_path: Path
) -> None:
    table = str(places(tmp_path / "places.parquet"))
    server.script(Fault(times=3), Fault("error", status=503), Fault("reset"), Fault("truncated"))
    told = asking.tell("submit", table, *WORDS, "--out", str(tmp_path / "out"), "--json")
    run = max(record.id for record in asking.ledger.runs())
    assert f'"run": {run}' in told
    asking.wait(run)
    asking.check(run)
    asked = [record for record in server.log if record.kind == "image:computePixels"]
    refused = Counter(record.status for record in asked if record.status != 200)
    assert refused[429] == 3
    assert refused[503] == 1
    # A request that is refused at once is not read, so nobody knows its tag.
    computed = [record for record in asked if record.workload_tag]
    assert {record.workload_tag for record in computed} == {f"rsembed-{run}"}
    assert N_ROWS <= len(computed) <= N_ROWS + 2
    server.clear()
    done = rsembed(asking.environ, "export", table, *WORDS, "--out", str(tmp_path / "calm"), "--no-cache", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path / "out") == files(tmp_path / "calm")
