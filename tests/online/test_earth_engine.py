"""The real Earth Engine; needs a login and RSEMBED_EE_PROJECT. Run by hand: ``pytest -m online tests/online``."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("ee")

from rsembed.core.patch import Patch
from rsembed.providers.gee import GeeProvider
from rsembed.providers.stac import StacProvider
from rsembed.testing.earth_engine_graphs import REQUESTS

PROJECT = os.environ.get("RSEMBED_EE_PROJECT")


@pytest.fixture(scope="module")
def gee() -> GeeProvider:
    if not PROJECT:
        pytest.skip("RSEMBED_EE_PROJECT names no project")
    return GeeProvider(PROJECT, workload_tag="rsembed-online-test")


@pytest.mark.parametrize("name", REQUESTS)
def test_fetch_when_a_kept_request_is_sent_then_pixels_come_in_one_request(gee: GeeProvider, name: str) -> None:
    patch = gee.fetch(REQUESTS[name])
    assert patch.provenance["requests"] == 1
    assert patch.valid_fraction() > 0.5
    assert all(frame.n_images for frame in patch.frames)


@pytest.mark.parametrize("name", ["s2_median_10m", "s2_median_30m_two_bins"])
def test_fetch_when_asked_of_both_then_about_what_the_public_files_give(gee: GeeProvider, name: str) -> None:
    # Not to the bit: the two archives hold other processing baselines.
    found: list[Patch] = [provider.fetch(REQUESTS[name]) for provider in (gee, StacProvider())]
    both = found[0].valid_tchw & found[1].valid_tchw
    assert both.mean() > 0.5
    difference = np.abs(found[0].values_tchw - found[1].values_tchw)[both]
    assert np.median(difference) < 100
