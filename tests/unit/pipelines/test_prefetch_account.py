"""What a provider says of its user: that the project is slowed down, that the login is refused."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rsembed.core.errors import AuthError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.providers.throttle import LocalThrottle
from rsembed.testing.null import NullProvider
from tests.builders import places, row_table, run_plan

ROWS = 9


class Slowing(NullProvider):
    """Says of its requests 2 to 5, counted from 0, that the project is restricted."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def fetch(self, request: FetchRequest) -> Patch:
        patch = super().fetch(request)
        told = {**patch.provenance, "restricted": 2 <= self.asked <= 5}
        self.asked += 1
        return replace(patch, provenance=told)


class Listening(LocalThrottle):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def restrict(self, restricted: bool) -> None:
        self.told.append(f"restricted {restricted}")
        super().restrict(restricted)

    def quota(self) -> None:
        self.told.append("quota")
        super().quota()


def test_prefetch_when_the_provider_slows_the_project_down_then_the_throttle_is_told_once(tmp_path: Path) -> None:
    (group,) = (plan := run_plan(shard_size=ROWS)).groups
    shard = row_table(places(ROWS), tmp_path).shard(0, ROWS)
    unit = FetchUnit(group, 0, shard, {"null": tuple(range(ROWS))}, plan.group_digest(group), None)
    throttle, ended = Listening(), threading.Event()
    # One worker, so that the answers come in the order in which they were asked for.
    manager = PrefetchManager(Slowing(), workers=1, throttle=throttle)
    manager.open(unit, InputPack(tmp_path / "unit.pack"), lambda _unit, _rows, last: last and ended.set())
    assert ended.wait(60)
    manager.stop()
    assert throttle.told == ["restricted True", "quota", "restricted False"]
    assert not throttle.state().restricted


class LoggedOut(NullProvider):
    """Refuses the login."""

    def fetch(self, request: FetchRequest) -> Patch:
        del request
        raise AuthError("log in first")


def test_prefetch_when_the_login_is_refused_then_the_run_stops_instead_of_failing_every_row(tmp_path: Path) -> None:
    (group,) = (plan := run_plan(shard_size=ROWS)).groups
    shard = row_table(places(ROWS), tmp_path).shard(0, ROWS)
    unit = FetchUnit(group, 0, shard, {"null": tuple(range(ROWS))}, plan.group_digest(group), None)
    settled: list[int] = []
    manager = PrefetchManager(LoggedOut(), workers=2, on_settled=settled.append)
    with pytest.raises(AuthError, match="log in first"):
        list(manager.run(iter([(unit, InputPack(tmp_path / "unit.pack"))]), shard_size=ROWS))
    assert settled == []
