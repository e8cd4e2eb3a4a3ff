from __future__ import annotations

from dataclasses import replace

from rsembed.providers.throttle import ThrottleState
from tests.unit.workers.run_parts import NOW, run_record
from workers.cli.throttled import run_key, run_throttle, throttle_line
from workers.loaded_run import throttle_key
from workers.settings import FleetSettings

STATE = ThrottleState(27.9, 26, 40, 100.0, 5, 7, restricted=False)
SOURCE = {"backend": "stac", "catalog": "sha256:1"}
SPEC = {"provider": {"backend": "stac"}, "description": {"provider": SOURCE}}


def test_line_when_the_throttle_is_known_then_what_is_under_way_allowed_and_refused_is_told() -> None:
    assert throttle_line(STATE) == (
        "throttle  26 requests under way, 27 allowed now, never more than 40, 100 starts a second; "
        "asked to slow down 7 times"
    )


def test_line_when_the_project_is_restricted_then_it_is_said() -> None:
    assert throttle_line(replace(STATE, restricted=True)).endswith("the project is restricted")


def test_line_when_redis_is_away_then_the_reason_is_told() -> None:
    assert throttle_line("no answer") == "throttle  unknown: no answer"


def test_key_when_read_from_what_was_submitted_then_it_is_the_one_that_workers_use() -> None:
    assert run_key(run_record(spec=SPEC)) == throttle_key("stac", SOURCE)
    assert run_key(run_record()) is None


def test_throttle_when_the_run_has_ended_or_there_is_no_redis_then_nothing_is_asked() -> None:
    away = FleetSettings(redis_url="redis://127.0.0.1:1")
    assert run_throttle(run_record(spec=SPEC, ended_at=NOW), away) is None
    assert run_throttle(run_record(spec=SPEC), FleetSettings()) is None
    assert isinstance(run_throttle(run_record(spec=SPEC), away), str)
