from __future__ import annotations

from pathlib import Path

import pytest

from rsembed.core.errors import SpecError
from rsembed.core.settings import Settings, ThrottleLimits


def test_settings_when_the_environment_is_empty_then_defaults() -> None:
    found = Settings.from_environment({})
    assert found == Settings(cache_dir=Path.home() / ".cache" / "rsembed", input_cache_bytes=10 * 10**9)


def test_settings_when_everything_is_set_then_it_is_read() -> None:
    found = Settings.from_environment(
        {
            "RSEMBED_BACKEND": "stac", "RSEMBED_STAC_URL": "https://stac", "RSEMBED_WEIGHTS_DIR": "~/weights",
            "RSEMBED_CACHE_DIR": "/cache", "RSEMBED_EE_PROJECT": "p", "RSEMBED_REQUIRE_COMMERCIAL": "1",
            "RSEMBED_OFFLINE": "yes",
        }
    )  # fmt: skip
    assert found == Settings(
        backend="stac", stac_url="https://stac", weights_dir=Path.home() / "weights", cache_dir=Path("/cache"),
        ee_project="p", require_commercial=True, offline=True, input_cache_bytes=10 * 10**9,
    )  # fmt: skip


def test_settings_when_variables_are_blank_then_they_count_as_unset() -> None:
    names = ("BACKEND", "STAC_URL", "WEIGHTS_DIR", "CACHE_DIR", "EE_PROJECT", "REQUIRE_COMMERCIAL", "OFFLINE")
    assert Settings.from_environment({f"RSEMBED_{name}": "" for name in names}) == Settings.from_environment({})


@pytest.mark.parametrize(("text", "on"), [("1", True), (" TRUE ", True), ("on", True), ("0", False), ("false", False)])
def test_settings_when_a_flag_is_spelled_then_it_is_understood(text: str, on: bool) -> None:
    assert Settings.from_environment({"RSEMBED_OFFLINE": text}).offline is on


def test_settings_when_xdg_names_a_cache_then_it_is_used() -> None:
    assert Settings.from_environment({"XDG_CACHE_HOME": "/xdg"}).cache_dir == Path("/xdg/rsembed")


@pytest.mark.parametrize(("text", "pays"), [("requester", True), ("Requester ", True), ("", False), ("other", False)])
def test_settings_when_gdal_is_told_who_pays_then_so_are_we(text: str, pays: bool) -> None:
    assert Settings.from_environment({"AWS_REQUEST_PAYER": text}).requester_pays is pays


def test_settings_when_limits_of_sources_are_stated_then_they_are_read() -> None:
    found = Settings.from_environment({"RSEMBED_THROTTLE": " gee=80/200, stac=16 ,own.one=3/0.5"})
    assert found.throttle == (
        ("gee", ThrottleLimits(80, 200.0)),
        ("stac", ThrottleLimits(16)),
        ("own.one", ThrottleLimits(3, 0.5)),
    )


@pytest.mark.parametrize("text", ["gee", "gee=0", "gee=4/0", "gee=many", "gee=4/", "=4", "gee=4;stac=5"])
def test_settings_when_limits_are_misspelt_then_they_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match="gee=80/200,stac=16"):
        Settings.from_environment({"RSEMBED_THROTTLE": text})


@pytest.mark.parametrize(("text", "bytes_"), [("", 10 * 10**9), ("0", 0), ("0.5", 500_000_000)])
def test_settings_when_the_input_cache_is_bounded_then_it_is_in_bytes(text: str, bytes_: int) -> None:
    assert Settings.from_environment({"RSEMBED_INPUT_CACHE_GB": text}).input_cache_bytes == bytes_


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "much"])
def test_settings_when_the_input_cache_is_no_size_then_it_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="number of GB"):
        Settings.from_environment({"RSEMBED_INPUT_CACHE_GB": text})
