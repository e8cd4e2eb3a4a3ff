from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from rsembed.core.errors import ExportError
from rsembed.writers.atomic import atomic_path, safe_label, sha256_file, write_json


@pytest.mark.parametrize("label", ["prithvi", "p600", "a.b_c+d=e-f", "0", "x" * 100])
def test_safe_label_when_plain_then_it_is_kept(label: str) -> None:
    assert safe_label(label) == label


@pytest.mark.parametrize(
    "label",
    ["", ".", "..", "../x", "a/b", "a\\b", "a..b", "-x", "_tmp", "a b", "é", "a\n", "x" * 101, "manifest.json",
     "parts.parquet",
     "A.NPZ"],
)  # fmt: skip
def test_safe_label_when_it_could_leave_its_place_or_take_anothers_then_refused(label: str) -> None:
    with pytest.raises(ExportError, match="cannot name a folder"):
        safe_label(label)


def test_atomic_path_when_the_block_ends_well_then_the_file_stands_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "x.bin"
    with atomic_path(final, tmp_path / "_tmp") as path:
        path.write_bytes(b"new")
        assert not final.exists()
    assert final.read_bytes() == b"new"
    assert list((tmp_path / "_tmp").iterdir()) == []


def test_atomic_path_when_the_block_raises_then_the_old_file_stands(tmp_path: Path) -> None:
    final = tmp_path / "x.bin"
    final.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(final, tmp_path / "_tmp") as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert final.read_bytes() == b"old"
    assert list((tmp_path / "_tmp").iterdir()) == []


def test_write_json_when_order_differs_then_bytes_do_not(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1], "a": "é"}, tmp_path / "_tmp")
    write_json(tmp_path / "b.json", {"a": "é", "b": [1]}, tmp_path / "_tmp")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"\n")


def test_write_json_when_a_value_is_nan_then_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": math.nan}, tmp_path / "_tmp")
    assert not (tmp_path / "a.json").exists()


def test_sha256_when_asked_then_it_is_the_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()
