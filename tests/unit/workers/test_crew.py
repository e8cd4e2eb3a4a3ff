"""Which processes a fleet of one machine consists of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rsembed.core.errors import SpecError
from workers.crew import UpOptions, crew
from workers.fleet_file import FleetFile
from workers.settings import FleetSettings
from workers.supervisor import ChildSpec

FILE = FleetFile(1, "postgresql://pooled", "postgresql://direct", "redis://broker", "/inputs")
SETTINGS = replace(
    FleetSettings(), home=Path("/home"), metrics_port=9464, flower_port=5555, flower_user="me", flower_password="s3cret"
)


def specs(options: UpOptions) -> dict[str, ChildSpec]:
    return {spec.name: spec for spec in crew(options, SETTINGS, FILE)}


def commands(options: UpOptions) -> dict[str, str]:
    return {name: " ".join(spec.arguments).removeprefix("-m rsembed fleet ") for name, spec in specs(options).items()}


def test_crew_when_nothing_is_asked_for_then_one_of_each_and_flower() -> None:
    assert commands(UpOptions(cpu=True)) == {
        "dispatcher": "dispatcher",
        "io-1": "worker io",
        "cpu-1": "worker cpu",
        "flower": "flower",
    }


def test_crew_when_workers_are_counted_then_so_many_and_each_model_where_it_belongs() -> None:
    found = commands(UpOptions(io=2, gpu=2, flower=False, models=("a", "b")))
    assert list(found) == ["dispatcher", "io-1", "io-2", "gpu-1", "gpu-2", "cpu-1"]
    assert found["gpu-1"] == "worker gpu --device cuda:0 --models a,b"
    assert found["cpu-1"] == "worker cpu --models a,b"
    assert found["io-2"] == "worker io"


def test_crew_when_started_then_each_is_told_where_things_are_and_only_flower_the_password() -> None:
    found = specs(UpOptions(cpu=True))
    for spec in found.values():
        assert spec.environ["DATABASE_URL"] == "postgresql://pooled"
        assert spec.environ["RSEMBED_DIRECT_DATABASE_URL"] == "postgresql://direct"
        assert spec.environ["REDIS_URL"] == "redis://broker"
        assert spec.environ["RSEMBED_INPUTS"] == "/inputs"
        assert spec.log == Path("/home/logs") / f"{spec.name}.log"
    assert [name for name, spec in found.items() if "s3cret" in spec.environ.values()] == ["flower"]
    assert [name for name, spec in found.items() if spec.environ["RSEMBED_METRICS_PORT"] != "0"] == ["dispatcher"]


@pytest.mark.parametrize("wrong", [{"io": -1}, {"gpu": -1}, {"gpu": 1, "cpu": True}])
def test_up_options_when_they_make_no_sense_then_they_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SpecError):
        UpOptions(**wrong)  # type: ignore[arg-type]
