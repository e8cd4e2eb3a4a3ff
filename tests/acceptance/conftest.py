"""One fleet for all tests that leave it as they found it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.acceptance.fleet_parts import Trial, surroundings
from tests.acceptance.gate import Gate
from tests.s3_server import CREDENTIALS
from workers.ledger.errors import RunStateError
from workers.testing import FleetUnderTest


@pytest.fixture(scope="session")
def gate(s3_endpoint: str) -> Iterator[Gate]:
    """A door to a server of buckets, open; whoever shuts it opens it again."""
    gate = Gate(s3_endpoint)
    yield gate
    gate.shut()


@pytest.fixture
def trial(standing_trial: Trial) -> Iterator[Trial]:
    """The fleet for one test, which leaves no run behind that others would wait for."""
    yield standing_trial
    for run in standing_trial.ledger.runs(active=True):
        with contextlib.suppress(RunStateError):
            standing_trial.ledger.cancel(run.id, "test")


@pytest.fixture(scope="session")
def standing_trial(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[Trial]:
    """A dispatcher with metrics, one IO worker and two that embed; each may be killed."""
    home = tmp_path_factory.mktemp("fleet")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {"RSEMBED_MEMORY_MB": "900", "RSEMBED_METRICS_PORT": str(port), "AWS_ENDPOINT_URL": gate.url}
    fleet = FleetUnderTest(home, surroundings(home, **environ, **CREDENTIALS), io=1, cpu=2)
    try:
        fleet.start()
        yield Trial(fleet)
    finally:
        fleet.stop()
