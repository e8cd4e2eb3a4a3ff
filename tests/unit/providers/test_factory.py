"""Which provider a request gets."""

from __future__ import annotations

import pytest

from rsembed.core.errors import SpecError
from rsembed.core.settings import Settings
from rsembed.providers.factory import make_provider, resolve_backend

PLAIN = Settings()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [(PLAIN, "stac"), (Settings(ee_project="p"), "gee"), (Settings(backend="stac", ee_project="p"), "stac")],
)
def test_resolve_backend_when_auto_then_gee_only_with_a_project(settings: Settings, expected: str) -> None:
    assert resolve_backend(settings=settings) == expected


def test_resolve_backend_when_options_tell_then_they_decide() -> None:
    assert resolve_backend("auto", catalog="x", settings=Settings(ee_project="p")) == "stac"
    assert resolve_backend("auto", source="x.tif", settings=PLAIN) == "raster"


@pytest.mark.parametrize("name", ["local", "nonsense"])
def test_resolve_backend_when_unknown_then_names_those_there_are(name: str) -> None:
    with pytest.raises(SpecError, match="auto, gee, stac, raster"):
        resolve_backend(name, settings=PLAIN)


def test_make_provider_when_raster_without_source_then_says_so() -> None:
    with pytest.raises(SpecError, match="needs source="):
        make_provider("raster", settings=PLAIN)


def test_make_provider_when_declarations_do_not_fit_then_refused() -> None:
    with pytest.raises(SpecError, match="unit declare what a raster holds"):
        make_provider("stac", unit="dB", settings=PLAIN)
