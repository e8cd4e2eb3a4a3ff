from __future__ import annotations

from pathlib import Path

import pytest

from rsembed.core.settings import Settings


def test_settings_when_the_environment_is_empty_then_defaults() -> None:
    found = Settings.from_environment({})
    assert found == Settings(cache_dir=Path.home() / ".cache" / "rsembed")


def test_settings_when_everything_is_set_then_it_is_read() -> None:
    found = Settings.from_environment(
        {
            "RSEMBED_BACKEND": "stac", "RSEMBED_STAC_URL": "https://stac", "RSEMBED_WEIGHTS_DIR": "~/weights",
            "RSEMBED_CACHE_DIR": "/cache", "RSEMBED_EE_PROJECT": "p", "RSEMBED_REQUIRE_COMMERCIAL": "1",
            "RSEMBED_OFFLINE": "yes",
        }
    )  # fmt: skip
    assert found == Settings("stac", "https://stac", Path.home() / "weights", Path("/cache"), "p", True, True)


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
