"""The fleet's settings, and the file that stands in for them while a local fleet runs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

import workers.settings
from rsembed.core.errors import SpecError
from workers import fleet_file
from workers.fleet_file import FleetFile
from workers.settings import FleetSettings

LOCAL = FleetFile(
    pid=1,
    database_url="postgresql://rsembed@/rsembed?host=/here",
    direct_database_url="postgresql://rsembed@/rsembed?host=/here",
    redis_url="redis+socket:///here/redis.sock",
    inputs="/here/inputs",
)


def settings(home: Path, **environ: str) -> FleetSettings:
    return FleetSettings.from_environment({"RSEMBED_HOME": str(home), **environ})


def test_settings_when_nothing_is_said_then_defaults_hold(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found == replace(FleetSettings(), home=tmp_path)
    assert (found.lease_s, found.heartbeat_s, found.sweep_s, found.deadline_s) == (20.0, 5.0, 2.0, 1800.0)


def test_settings_when_the_lease_is_short_then_heartbeat_and_sweep_follow(tmp_path: Path) -> None:
    found = settings(tmp_path, RSEMBED_LEASE_S="2")
    assert (found.heartbeat_s, found.sweep_s) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RSEMBED_LEASE_S", "soon"),
        ("RSEMBED_LEASE_S", "0"),
        ("RSEMBED_LEASE_S", "nan"),
        ("RSEMBED_HEARTBEAT_S", "15"),
        ("RSEMBED_SWEEP_S", "11"),
        ("RSEMBED_FETCH_THREADS", "2.5"),
        ("RSEMBED_METRICS_PORT", "70000"),
        ("RSEMBED_INPUTS_BUDGET_GB", "inf"),
    ],
)
def test_settings_when_a_value_is_out_of_range_then_the_variable_is_named(
    tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(SpecError, match=name):
        settings(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("need", "variable"),
    [
        (FleetSettings.need_database_url, "DATABASE_URL"),
        (FleetSettings.need_direct_database_url, "DATABASE_URL"),
        (FleetSettings.need_redis_url, "REDIS_URL"),
        (FleetSettings.need_inputs, "RSEMBED_INPUTS"),
    ],
)
def test_settings_when_a_url_is_needed_and_absent_then_the_error_says_how_to_set_it(
    tmp_path: Path, need: object, variable: str
) -> None:
    assert callable(need)
    with pytest.raises(SpecError, match=rf"{variable}.*fleet up"):
        need(settings(tmp_path))


def test_settings_when_no_direct_url_is_set_then_it_is_the_database_s(tmp_path: Path) -> None:
    assert settings(tmp_path, DATABASE_URL="postgresql://a/b").need_direct_database_url() == "postgresql://a/b"


def test_settings_when_a_local_fleet_runs_then_its_file_stands_in(tmp_path: Path) -> None:
    LOCAL.write(tmp_path)
    with fleet_file.held(tmp_path):
        found = settings(tmp_path)
        assert (found.database_url, found.redis_url, found.inputs) == (
            LOCAL.database_url,
            LOCAL.redis_url,
            LOCAL.inputs,
        )


def test_settings_when_database_url_is_set_then_a_local_fleet_is_ignored(tmp_path: Path) -> None:
    LOCAL.write(tmp_path)
    with fleet_file.held(tmp_path):
        found = settings(tmp_path, DATABASE_URL="postgresql://a/b")
    assert (found.database_url, found.redis_url) == ("postgresql://a/b", "")


def test_settings_when_the_local_fleet_has_crashed_then_its_file_is_not_believed(tmp_path: Path) -> None:
    LOCAL.write(tmp_path)
    with fleet_file.held(tmp_path):
        pass
    assert settings(tmp_path).database_url == ""


def test_fleet_file_when_written_then_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = LOCAL.write(tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["redis_url"] == LOCAL.redis_url


def test_fleet_file_when_of_another_version_then_it_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / fleet_file.FILE_NAME).write_text('{"pid": 1, "other": 2}')
    with fleet_file.held(tmp_path):
        assert fleet_file.running_fleet(tmp_path) is None


def test_settings_when_a_variable_is_read_then_it_is_documented() -> None:
    source = Path(workers.settings.__file__).read_text(encoding="utf-8")
    documentation = workers.settings.__doc__ or ""
    names = set(re.findall(r"\"((?:RSEMBED_)?[A-Z]+(?:_[A-Z]+)+)\"", source))
    assert len(names) > 15
    assert not [name for name in names if f"``{name}``" not in documentation]
