"""One fleet for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.fleet_parts import Trial, surroundings
from workers.testing import FleetUnderTest


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A dispatcher, one IO worker and two that embed; each may be killed."""
    home = tmp_path_factory.mktemp("fleet")
    fleet = FleetUnderTest(home, surroundings(home, RSEMBED_MEMORY_MB="900"), io=1, cpu=2)
    try:
        fleet.start()
        yield Trial(fleet)
    finally:
        fleet.stop()
