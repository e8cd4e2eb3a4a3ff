"""Section 4 of the reference's description, its defects: none of them is ours.

Where another file shows it already, the table names that test; the rest follows below.

=====  ==========================================================================================
A1     test_resume_when_another_process_goes_on_in_range_mode_then_nothing_is_asked_again (here)
A2     test_resume_when_regions_are_rectangles_then_the_bytes_of_an_undisturbed_run (here)
A3     unit/pipelines/test_exporter: ..._when_failed_rows_succeed_later_..., ..._when_a_compacted_run_is_retried_...
A4     unit/writers/test_netcdf: ..._when_another_thread_is_inside_hdf5_...; one writer writes all files
A5     unit/tools/test_spatial: ..._measured_on_the_ellipsoid_...; integration/test_gee_provider: ..._above_48_megabytes
A6     integration/test_gee_provider: ..._when_pixels_are_masked_then_told_from_zeros; test_temporal rows 31, 35
A7     contract/test_load_layouts
A8     unit/pipelines/test_plan: ..._fingerprint_...; contract/test_combined
A9     test_digest_when_only_the_last_frame_differs_then_it_differs (here)
B1     unit/providers/test_gee_client: ..._asked_then_the_grid_and_the_tag_are_in_the_body_and_nothing_else_is_asked
B2     acceptance/test_kill_and_resume: ..._when_interrupted_...; unit/pipelines/test_prefetch: ..._when_stopped_...
B3     unit/pipelines/test_prefetch: ..._when_a_row_is_slow_...; test_batch_when_fetching_then_requests_overlap (here)
B4     unit/pipelines/test_retry
B5     unit/embedders/test_batching: ..._when_rows_are_poisoned_..., ..._when_memory_runs_out_...
B6,B7  test_temporal rows 31, 33, 34
B8     test_describe row 21
B9     contract/test_per_item: created_at is read by fromisoformat
B10    test_json_when_nothing_is_valid_then_it_is_strict (here)
B11    test_scale_when_fractions_differ_then_so_do_fetches (here)
B12    test_specs rows 2, 3; test_grid_when_beyond_its_latitude_then_the_row_is_named (here)
B13    test_describe row 20
B14    test_cli: ..._when_settings_stand_without_a_collection_then_they_count
B15    unit/writers/test_store, test_atomic; acceptance/test_kill_layouts
B16    test_networks_when_many_are_used_then_the_oldest_are_let_go (here); test_embedding row 24
B17    test_tiling row 45 (strides); test_clock_when_read_then_never_by_utcnow (here)
B18    unit/test_house_rules: ..._except_when_broad_...
=====  ==========================================================================================
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed
from rsembed import BBox, ExportConfig, ExportTarget, FetchSpec, PointBuffer, RSEmbedError, SpecError, TemporalSpec
from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.testing.null import NullProvider
from tests.builders import CountingProvider, files
from tests.contract.reference import models
from tests.contract.reference.calls import PLACE, YEAR, settings, single

ROOT = Path(__file__).resolve().parents[3]
RANGE = TemporalSpec.range("2022-03-01", "2022-06-01")
QUIET = ExportConfig(show_progress=False, shard_size=3, batch_size=2, max_attempts=1)
BOXES = [BBox(3.0 + 0.01 * i, 42.0, 3.0008 + 0.01 * i, 42.0 + 0.0004 * (1 + i % 3)) for i in range(8)]


def export(target: Any, provider: Any, **changes: Any) -> Any:
    given = {"spatials": BOXES, "temporal": RANGE, "models": ["contract-pixels"], "config": QUIET}
    return rsembed.export_batch(target=target, **given | settings(backend=provider) | changes)


def test_resume_when_another_process_goes_on_in_range_mode_then_nothing_is_asked_again(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from rsembed import ExportConfig, ExportTarget, PointBuffer, TemporalSpec, export_batch\n"
        "from rsembed.testing.null import NullProvider\n"
        "provider, out = NullProvider(), sys.argv[1]\n"
        "for target in (ExportTarget.dataset(out + '/d'), ExportTarget.per_item(out + '/i'),\n"
        "               ExportTarget.combined(out + '/c.npz')):\n"
        "    places = [PointBuffer(2 + i / 100, 42, 40) for i in range(6)]\n"
        "    export_batch(spatials=places, models=['null'], device='cpu',\n"
        "                 temporal=TemporalSpec.range('2022-03-01', '2022-06-01'), target=target, backend=provider,\n"
        "                 config=ExportConfig(show_progress=False))\n"
        "    print(provider.calls)\n"
    )
    asked = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(tmp_path)], capture_output=True, text=True, check=False,
            cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked.append(done.stdout.split())
    assert asked == [["6", "12", "18"], ["0", "0", "0"]]
    told = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert told
    assert not any("<function" in text or "0x7f" in text for text in told)


def test_resume_when_regions_are_rectangles_then_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    class HalfDown(models.Land):
        def fetch(self, request: FetchRequest) -> Patch:
            if len(self.asked) >= 4:
                raise ProviderError("the service is down")
            return super().fetch(request)

    export(ExportTarget.dataset(tmp_path / "whole"), models.Land())
    broken = export(ExportTarget.dataset(tmp_path / "resumed"), HalfDown(), config=replace(QUIET, fetch_workers=1))
    assert 0 < broken.n_failed < len(BOXES)
    provider = models.Land()
    assert export(ExportTarget.dataset(tmp_path / "resumed"), provider).n_failed == 0
    assert len(provider.asked) == broken.n_failed
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")
    export(ExportTarget.combined(tmp_path / "whole.npz"), models.Land())
    export(ExportTarget.combined(tmp_path / "resumed.npz"), HalfDown(), config=replace(QUIET, fetch_workers=1))
    export(ExportTarget.combined(tmp_path / "resumed.npz"), models.Land())
    found, whole = (
        rsembed.load_export(tmp_path / name).embedding("contract-pixels") for name in ("resumed.npz", "whole.npz")
    )
    np.testing.assert_array_equal(found, whole)


def test_digest_when_only_the_last_frame_differs_then_it_differs(tmp_path: Path) -> None:
    class Last(NullProvider):
        def __init__(self, more: float) -> None:
            super().__init__()
            self.more = more

        def fetch(self, request: FetchRequest) -> Patch:
            patch = super().fetch(request)
            patch.values_tchw[-1, -1, -1, -1] = 5000 + self.more
            return patch

    digests = set()
    for more in (0.0, 1.0):
        target = ExportTarget.per_item(tmp_path / str(more))
        (manifest,) = export(
            target, Last(more), spatials=[PointBuffer(3.0, 42.0, 1200)], models=["contract-monthly"], temporal=YEAR,
            input_prep="resize",
        )  # fmt: skip
        entry = manifest["models"][0]["input"]
        assert np.prod(entry["shape"]) * 4 > 2_000_000
        digests.add(entry["sha1"])
    assert len(digests) == 2


def test_batch_when_fetching_then_requests_overlap() -> None:
    class Slow(NullProvider):
        def __init__(self) -> None:
            super().__init__()
            self.now = self.most = 0
            self.lock = threading.Lock()

        def fetch(self, request: FetchRequest) -> Patch:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.05)
            with self.lock:
                self.now -= 1
            return super().fetch(request)

    provider = Slow()
    places = [PointBuffer(2.0 + 0.01 * i, 42.0, 40.0) for i in range(16)]
    rsembed.get_embeddings_batch("null", spatials=places, temporal=YEAR, fetch_workers=8, **settings(backend=provider))
    assert provider.most >= 4


@pytest.mark.parametrize("layout", [ExportTarget.per_item, ExportTarget.combined])
def test_json_when_nothing_is_valid_then_it_is_strict(tmp_path: Path, layout: Callable[..., ExportTarget]) -> None:
    combined = layout == ExportTarget.combined
    export(layout(tmp_path / ("all.npz" if combined else "items")), NullProvider(empty=lambda _: True))

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    found = [path for path in tmp_path.rglob("*.json") if "_rsembed" not in path.parts]
    assert len(found) == (1 if combined else len(BOXES))
    for path in found:
        manifest = json.loads(path.read_text(), parse_constant=refuse)
        assert manifest["status"] != "ok"


def test_scale_when_fractions_differ_then_so_do_fetches() -> None:
    provider = CountingProvider()
    for scale_m in (10.1, 10.9, 2.5):
        single(fetch=FetchSpec(scale_m=scale_m), backend=provider)
    assert [request.grid.scale_m for request in provider.asked] == [10.1, 10.9, 2.5]
    assert len({request.recipe for request in provider.asked}) == 3


@pytest.mark.parametrize(("recipe", "lat"), [("authors", 84.5), ("authors", -80.5), ("rs-embed", 86.0)])
def test_grid_when_beyond_its_latitude_then_the_row_is_named(recipe: Any, lat: float) -> None:
    provider = CountingProvider()
    places = [PLACE, PointBuffer(2.0, lat, 40.0)]
    name = "null" if recipe == "authors" else "mosaiks"
    with pytest.raises(RSEmbedError, match=rf"spatials\[1\].*latitude {lat:g} lies beyond"):
        rsembed.get_embeddings_batch(name, spatials=places, temporal=YEAR, recipe=recipe, **settings(backend=provider))
    assert provider.asked == []


def test_networks_when_many_are_used_then_the_oldest_are_let_go() -> None:
    from torch import nn

    from rsembed.embedders.torch_runtime import MAX_NETS, NetKey, cached_net

    rsembed.reset_runtime()
    built: list[int] = []

    def use(number: int) -> None:
        def build() -> nn.Module:
            built.append(number)
            return nn.Identity()

        cached_net(NetKey("contract", "", (), str(number), "cpu", "fp32"), build)

    for number in range(MAX_NETS + 2):
        use(number)
    use(MAX_NETS + 1)
    use(0)
    assert built == [*range(MAX_NETS + 2), 0]
    assert rsembed.reset_runtime()["networks"] == MAX_NETS


def test_clock_when_read_then_never_by_utcnow() -> None:
    wrong = [
        str(path)
        for folder in ("rsembed", "workers")
        for path in (ROOT / folder).rglob("*.py")
        if "utcnow(" in path.read_text(encoding="utf-8") or "utcfromtimestamp(" in path.read_text(encoding="utf-8")
    ]
    assert wrong == []


def test_spec_when_a_window_is_printed_then_no_address_is_in_it() -> None:
    assert "0x" not in repr(RANGE)
    with pytest.raises(SpecError):
        TemporalSpec("range", TemporalSpec.year, "2022-06-01")  # type: ignore[arg-type]
