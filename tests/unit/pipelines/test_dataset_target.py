"""What ``export_batch`` adds to a dataset export: beginning anew, raising at the end, the buffer of its places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rsembed.testing.null  # noqa: F401 - registers the model "null"
from rsembed import (
    ExportConfig,
    ExportSummary,
    ExportTarget,
    ModelError,
    PointBuffer,
    ProviderError,
    SpecError,
    TemporalSpec,
    export_batch,
)
from tests.builders import TEMPORAL, CountingProvider, Flaky, at_lon, by_id, files

PLACES = [PointBuffer(2.0 + 0.02 * i, 42.0, 40) for i in range(5)]


def exported(out: Path, provider: Any = None, **options: Any) -> ExportSummary:
    config = ExportConfig(shard_size=2, batch_size=2, show_progress=False, **options.pop("config", {}))
    given: dict[str, Any] = {
        "spatials": PLACES, "temporal": TEMPORAL, "models": ["null"], "backend": provider or CountingProvider(),
        "device": "cpu",
    }  # fmt: skip
    return export_batch(**(given | options), config=config, target=ExportTarget.dataset(out))


def test_dataset_when_places_have_a_buffer_then_it_is_the_runs(tmp_path: Path) -> None:
    provider = CountingProvider()
    exported(tmp_path / "out", provider, spatials=[PointBuffer(2.0, 42.0, 80)])
    assert (provider.asked[0].grid.height, provider.asked[0].grid.width) == (16, 16)
    with pytest.raises(SpecError, match=r"a buffer of 80 m, buffer_m is 40"):
        exported(tmp_path / "other", spatials=[PointBuffer(2.0, 42.0, 80)], config={"buffer_m": 40})


def test_dataset_when_begun_anew_then_all_is_done_again_to_the_same_bytes(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    before = files(tmp_path / "out")
    provider = CountingProvider()
    summary = exported(tmp_path / "out", provider, config={"resume": False})
    assert len(provider.asked) == 5
    assert summary.out == tmp_path / "out"
    assert summary.resumed_rows == 0
    assert files(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_dataset_when_beginning_anew_stops_then_the_old_one_stands(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    before = files(tmp_path / "out")

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exported(
            tmp_path / "out", CountingProvider(fault=stop), config={"resume": False}, temporal=TemporalSpec.year(2021)
        )
    assert files(tmp_path / "out") == before
    exported(tmp_path / "out", config={"resume": False}, temporal=TemporalSpec.year(2021))
    assert by_id(tmp_path / "out")["0"]["start"].year == 2021
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_dataset_when_a_process_died_between_two_renames_then_the_old_one_comes_back(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.rsembed-old")
    provider = CountingProvider()
    exported(tmp_path / "out", provider)
    assert provider.asked == []


def test_dataset_when_errors_end_it_then_all_is_saved_and_the_first_is_raised(tmp_path: Path) -> None:
    failing = CountingProvider(fault=Flaky(lambda: ProviderError("no way"), hits=at_lon(2.04, 2.06)))
    with pytest.raises(ProviderError, match=r"row 2 .*no way"):
        exported(tmp_path / "out", failing, config={"continue_on_error": False})
    provider = CountingProvider()
    assert exported(tmp_path / "out", provider, config={"continue_on_error": False}).n_failed == 0
    assert len(provider.asked) == 2


def test_dataset_when_there_is_no_imagery_and_errors_end_it_then_that_is_one(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="have no imagery"):
        exported(tmp_path / "out", CountingProvider(empty=at_lon(2.0)), config={"continue_on_error": False})


@pytest.mark.parametrize(
    "config",
    [{"save_embeddings": False}, {"save_manifest": False}, {"fail_on_bad_input": True}, {"format": "netcdf"}],
)
def test_dataset_when_a_setting_is_that_of_files_then_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"per_item or \.combined"):
        exported(tmp_path / "out", config=config)
    assert not any(tmp_path.iterdir())
