from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsembed.core.errors import SpecError, StoreError, StoreFullError
from rsembed.pipelines.input_record import encode
from tests.builders import patch
from workers.inputs import InputStore

RECORD = encode("k", patch())[0]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield folder
    finally:
        os.system(f"umount {folder}")


def test_write_when_the_disk_is_full_then_back_pressure_and_nothing_half_written(
    tiny_disk: Path, tmp_path: Path
) -> None:
    store = InputStore(str(tiny_disk), tmp_path)
    store.write_segment("a/0", "t-0", RECORD)
    with pytest.raises(StoreFullError):
        store.write_segment("a/0", "t-1", os.urandom(1_100_000))
    assert files(tiny_disk) == ["a/0/t-0.pack"]
    with store.open_unit("a/0") as unit:
        assert unit.keys(("B1",)) == {"k"}


def test_check_when_the_folder_cannot_be_written_to_then_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        InputStore(str(tmp_path / "file"), tmp_path / "scratch").check()


def test_check_when_all_is_well_then_nothing_is_left(tmp_path: Path) -> None:
    store = InputStore(str(tmp_path / "in"), tmp_path / "scratch")
    store.check()
    assert files(tmp_path / "in") == []
    assert list(store.list_units()) == []


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a//b", ""])
def test_write_when_a_unit_could_leave_the_store_then_refused(tmp_path: Path, key: str) -> None:
    store = InputStore(str(tmp_path / "in"), tmp_path / "scratch")
    with pytest.raises(SpecError):
        store.write_segment(key, "t-0", RECORD)
    with pytest.raises(SpecError):
        store.delete_unit(key)


def test_delete_unfinished_when_a_writer_died_long_ago_then_what_it_left_goes_and_nothing_else(tmp_path: Path) -> None:
    store = InputStore(str(tmp_path), tmp_path / "scratch")
    store.delete_unfinished()
    store.write_segment("a/0", "t-0", RECORD)
    for name, age_s in (("old", 7200), ("new", 10)):
        path = tmp_path / "_tmp" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    store.delete_unfinished(older_s=3600)
    assert files(tmp_path) == ["_tmp/new", "a/0/t-0.pack"]


def test_unit_when_a_folder_of_the_store_holds_other_files_then_they_are_no_segments(tmp_path: Path) -> None:
    store = InputStore(str(tmp_path), tmp_path / "scratch")
    store.write_segment("a/0", "t-0", RECORD)
    (tmp_path / "a" / "0" / "README").write_bytes(RECORD)
    (tmp_path / "notes.txt").write_text("x")
    with store.open_unit("a/0") as unit:
        assert unit.keys(("B1",)) == {"k"}
    assert [(key, size) for key, size, _ in store.list_units()] == [("a/0", len(RECORD))]
