from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsembed.core.errors import ExportArgumentError
from rsembed.pipelines.targets import CombinedTarget, DatasetTarget, ExportTarget, PerItemTarget


def test_target_when_made_then_of_its_kind_and_frozen() -> None:
    made = {
        DatasetTarget: ExportTarget.dataset("x"),
        PerItemTarget: ExportTarget.per_item("x", names=iter(["a", "b"])),
        CombinedTarget: ExportTarget.combined("x"),
    }
    for kind, target in made.items():
        assert type(target) is kind
        assert isinstance(target, ExportTarget)
        with pytest.raises(AttributeError):
            target.out = Path("y")  # type: ignore[misc,union-attr]  # frozen, on purpose
    assert ExportTarget.per_item("x", ["a"]) == PerItemTarget(Path("x"), ("a",))


def test_target_when_only_a_folder_is_given_then_a_dataset() -> None:
    assert ExportTarget(Path("x")) == ExportTarget.dataset("x")
    assert type(ExportTarget("x", npz=True)) is DatasetTarget


@pytest.mark.parametrize(
    ("given", "found"), [("a", "a.nc"), ("a.nc", "a.nc"), ("a.npz", "a.npz.nc"), ("a.b", "a.b.nc")]
)
def test_combined_target_when_the_extension_lacks_then_it_is_added(given: str, found: str) -> None:
    assert ExportTarget.combined(f"d/{given}").file(".nc") == Path("d") / found


@pytest.mark.parametrize(
    "names", ["abc", [""], [" "], ["a/b"], ["..\\x"], [".hidden"], ["_rsembed"], ["a", "a"], ["a\n"], [3], ["x" * 201]]
)
def test_target_when_a_name_cannot_name_a_file_then_refused(names: Any) -> None:
    with pytest.raises(ExportArgumentError):
        PerItemTarget("x", names)


@pytest.mark.parametrize("make", [ExportTarget.dataset, ExportTarget.per_item, ExportTarget.combined])
def test_target_when_it_is_a_bucket_then_refused_before_a_folder_of_that_name_is_made(make: Any) -> None:
    with pytest.raises(ExportArgumentError, match="path on this machine"):
        make("s3://bucket/out")
